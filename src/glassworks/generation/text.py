"""Streaming conversion of token ids to text."""

from collections.abc import Callable

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""A tokenizer's output for a character whose last bytes are in a later token."""


class TextStream:
    """Pieces of one text, each returned as soon as it is final. No character is split. The joined pieces equal `decode` of all ids."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> str:
        """The text that became final with one more token; often a word, sometimes empty."""
        self.ids.append(token)
        return self._advance(self.decode(self.ids).rstrip(INCOMPLETE))

    def end(self) -> str:
        """The remaining text: bytes that did not form a character."""
        return self._advance(self.decode(self.ids))

    def _advance(self, text: str) -> str:
        piece = text[len(self.text) :]
        self.text += piece
        return piece
