"""A tokenizer with further special tokens."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken

from glassworks.config.packing import Packing
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import ConfigError


class ExtendedTokenizer(TextTokenizer):
    """The tokenizer of a folder with new special tokens, whose ids follow its own."""

    def __init__(self, directory: Path, tokens: Sequence[str]) -> None:
        """Raises `ConfigError` for a token that the tokenizer has, and for one that is listed twice or empty."""
        super().__init__(directory)
        self.first = self.size
        """The id of the first new token."""
        for number, token in enumerate(tokens):
            if not token.strip() or token in tokens[:number]:
                raise ConfigError(f"data.new_tokens: {token!r} is empty or listed twice; remove it")
            if self._tokenizer.token_to_id(token) is not None:
                raise ConfigError(f"data.new_tokens: {token!r} is a token of {directory} already; remove it")
        self._tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
        ids = [self._tokenizer.token_to_id(token) for token in tokens]
        if ids != [*range(self.first, self.first + len(tokens))]:
            raise ConfigError(
                f"data.new_tokens: the ids of {directory} have gaps, so new tokens get {ids}; use tokens that it has"
            )
        self._open |= set(range(self.first, self.size))


def open_tokenizer_of(directory: Path, packing: Packing) -> TextTokenizer:
    """The tokenizer of a folder, with the new tokens of the conversations in packed rows."""
    new = packing.chat.new_tokens if packing.chat else ()
    return ExtendedTokenizer(directory, new) if new else TextTokenizer(directory)
