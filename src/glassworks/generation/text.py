"""Token ids to text while they come."""

from collections.abc import Callable

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer makes of the first bytes of a character whose last bytes are in a token to come."""


class TextStream:
    """Pieces of one text, each given as soon as it can no longer change: no character is cut in its middle. Joined they are `decode` of all ids."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> str:
        """The text that one more token has made certain; often a word, sometimes nothing."""
        self.ids.append(token)
        return self._advance(self.decode(self.ids).rstrip(INCOMPLETE))

    def end(self) -> str:
        """What was held back: bytes that never became a character."""
        return self._advance(self.decode(self.ids))

    def _advance(self, text: str) -> str:
        piece = text[len(self.text) :]
        self.text += piece
        return piece
