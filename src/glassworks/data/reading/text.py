"""Captions to token ids and back, with the tokenizer an artefact holds."""

import json
from pathlib import Path

from tokenizers import Tokenizer

from glassworks.errors import ArtifactError


class CaptionTokenizer:
    """A tokenizer directory in transformers' layout: `tokenizer.json` and `tokenizer_config.json`."""

    def __init__(self, directory: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
            config = json.loads((directory / "tokenizer_config.json").read_text())
            self.pad, self.bos, self.eos = (self._id(config[name]) for name in ("pad_token", "bos_token", "eos_token"))
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{directory}: not a tokenizer with padding, BOS and EOS ({error})") from None

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(f"{token} is not in the vocabulary")
        return found

    @property
    def size(self) -> int:
        """Entries of the vocabulary."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """BOS, the tokens of `text`, EOS. What does not fit into `max_tokens` ids is cut, and then there is no EOS: the text did not end there."""
        return [self.bos, *self._tokenizer.encode(text, add_special_tokens=False).ids, self.eos][:max_tokens]

    def decode(self, ids: list[int]) -> str:
        """The text up to the first EOS, without special tokens."""
        if self.eos in ids:
            ids = ids[: ids.index(self.eos)]
        return self._tokenizer.decode(ids, skip_special_tokens=True)
