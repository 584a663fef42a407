"""Texts to token ids and back, with the tokenizer of an artefact."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from glassworks.artifacts.digests import write_json
from glassworks.errors import ArtifactError

FILES = ("tokenizer.json", "tokenizer_config.json")
"""The files of a saved tokenizer."""


class TextTokenizer:
    """A tokenizer directory in transformers' layout: `tokenizer.json` and `tokenizer_config.json`.

    If tokenizer_config.json has no special tokens (GPT-2), their ids come from config.json. EOS replaces a missing BOS (Qwen2.5) or padding token.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self._tokenizer = Tokenizer.from_file(str(directory / FILES[0]))
            self._tokenizer.encode_special_tokens = True  # <|eos|> in a text is text
            names = json.loads((directory / FILES[1]).read_text())
            model = directory / "config.json"
            numbers = json.loads(model.read_text()) if "eos_token" not in names and model.is_file() else {}
            eos = self._id("eos", names, numbers)
            if eos is None:
                raise KeyError("no eos_token")
            self.eos = eos
            bos, pad = (self._id(kind, names, numbers) for kind in ("bos", "pad"))
            self.bos, self.pad = eos if bos is None else bos, eos if pad is None else pad
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{directory}: not a tokenizer with an end of text ({error})") from None

    def _id(self, kind: str, names: dict[str, Any], numbers: dict[str, Any]) -> int | None:
        token = names.get(f"{kind}_token")
        if token is None:
            number: int | None = numbers.get(f"{kind}_token_id")
            return number
        name = token["content"] if isinstance(token, dict) else token
        found: int | None = self._tokenizer.token_to_id(name)
        if found is None:
            raise KeyError(f"{name} is not in the vocabulary")
        return found

    def save(self, directory: Path) -> None:
        """Write the tokenizer, with the names of its special tokens."""
        names = json.loads((self.directory / FILES[1]).read_text())
        special = {"eos_token": self.eos, "bos_token": self.bos, "pad_token": self.pad}
        for kind, number in special.items():
            names.setdefault(kind, self._tokenizer.id_to_token(number))
        (directory / FILES[0]).write_bytes((self.directory / FILES[0]).read_bytes())
        write_json(directory / FILES[1], names)

    @property
    def size(self) -> int:
        """Entries of the vocabulary."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """BOS, the tokens of `text`, EOS, truncated to `max_tokens` ids. A truncated text has no EOS."""
        return [self.bos, *self._tokenizer.encode(text, add_special_tokens=False).ids, self.eos][:max_tokens]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """BOS, the tokens of a text, EOS, for each of `texts`."""
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [[self.bos, *one.ids, self.eos] for one in encoded]

    def decode(self, ids: list[int]) -> str:
        """The text of generated `ids` (without BOS) up to the first EOS, without special tokens."""
        if self.eos in ids:
            ids = ids[: ids.index(self.eos)]
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def check_vocabulary(tokenizer: TextTokenizer, vocabulary: int, where: Path | str) -> None:
    """Raise `ArtifactError` unless a model with `vocabulary` token embeddings covers every token."""
    if tokenizer.size > vocabulary:
        raise ArtifactError(
            f"{where}: its vocabulary of {vocabulary:,} does not match the tokenizer, which has {tokenizer.size:,} tokens; "
            "use the tokenizer that the model was trained with"
        )
