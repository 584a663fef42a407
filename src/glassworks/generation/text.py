"""Streaming conversion of token ids to text."""

from collections.abc import Callable, Sequence

from glassworks.data.reading.text import TextTokenizer

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""A tokenizer's output for a character whose last bytes are in a later token."""


class TextStream:
    """Pieces of one text, each returned as soon as it is final. No character is split. The joined pieces are the text that the ids add to the prompt."""

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        settled: Callable[[list[int]], str] | None = None,
        prompt: Sequence[int] = (),
    ) -> None:
        """`settled` returns the beginning of `decode(ids)` that no later id changes; by default all but an incomplete character."""
        self.decode, self.settled = decode, settled or (lambda ids: decode(ids).rstrip(INCOMPLETE))
        self.ids = list(prompt)
        self.known = decode(self.ids) if prompt else ""
        self.shown = 0

    def add(self, token: int) -> str:
        """The text that became final with one more token; often a word, sometimes empty."""
        self.ids.append(token)
        return self._advance(self.settled(self.ids))

    def end(self) -> str:
        """The remaining text: bytes that did not form a character."""
        return self._advance(self.decode(self.ids))

    def _advance(self, text: str) -> str:
        piece = beyond(self.known, text)[self.shown :]
        self.shown += len(piece)
        return piece


def continuation(tokenizer: TextTokenizer, prompt: list[int], ids: list[int]) -> str:
    """The text that `ids` add to that of `prompt`. Decoded alone, `ids` may lose the space before them."""
    return beyond(tokenizer.text(prompt), tokenizer.text([*prompt, *ids]))


def beyond(known: str, text: str) -> str:
    """`text` after the characters that it shares with `known` at the beginning."""
    pairs = enumerate(zip(known, text, strict=False))
    shared = next((index for index, (one, other) in pairs if one != other), min(len(known), len(text)))
    return text[shared:]
