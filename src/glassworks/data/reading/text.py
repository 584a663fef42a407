"""Texts to token ids and back, with the tokenizer of an artefact."""

import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from glassworks.artifacts.digests import write_json, write_text
from glassworks.artifacts.model_files import CONFIG, read_hub_config
from glassworks.errors import ArtifactError

FILES = ("tokenizer.json", "tokenizer_config.json")
"""The files of a saved tokenizer."""
OLDER_FILES = ("vocab.json", "merges.txt")
"""GPT-2's files before tokenizer.json."""
SPECIAL_TOKENS, GENERATION = "special_tokens_map.json", "generation_config.json"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""The tokens of byte fallback."""
CLEANED = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m", " 's": "'s"} | {
    " 've": "'ve",
    " 're": "'re",
}
"""transformers' clean_up_tokenization_spaces, in this order."""
UNSETTLED = 8
"""Last characters of a text that this cleaning may still change."""


def has_tokenizer(directory: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return (directory / FILES[0]).is_file() or all((directory / name).is_file() for name in OLDER_FILES)


def open_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a folder without truncation and padding, which a file may set. Raises `ArtifactError` for an unreadable one."""
    try:
        if (directory / FILES[0]).is_file():
            tokenizer = Tokenizer.from_file(str(directory / FILES[0]))
        else:
            tokenizer = _gpt2(directory)
    except ArtifactError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise ArtifactError(f"{directory}: not a tokenizer ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _gpt2(directory: Path) -> Tokenizer:
    """A tokenizer from vocab.json and merges.txt, as GPT-2 uses them."""
    missing = [name for name in OLDER_FILES if not (directory / name).is_file()]
    if missing:
        raise ArtifactError(f"{directory}: not a tokenizer: no {FILES[0]} there, and no {missing[0]}")
    kind = _read(directory, CONFIG).get("model_type")
    if kind != "gpt2":
        raise ArtifactError(
            f"{directory}: model_type is {kind!r}, and {OLDER_FILES[0]} is read for gpt2 only; save {FILES[0]} with "
            "`transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`"
        )
    tokenizer = Tokenizer(models.BPE.from_file(*(str(directory / name) for name in OLDER_FILES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


class TextTokenizer:
    """A tokenizer directory in transformers' layout: `tokenizer.json`, and the names of the special tokens beside it.

    The names come from tokenizer_config.json, else special_tokens_map.json; missing ones come as ids from generation_config.json and config.json.
    EOS replaces a missing BOS (Qwen2.5) or padding token.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self._tokenizer = directory, open_tokenizer(directory)
        self._tokenizer.encode_special_tokens = True  # <|eos|> in a text is text
        names = {**_named(_read(directory, SPECIAL_TOKENS)), **_named(_read(directory, FILES[1]))}
        self._mark_special(names)
        config, generation = _read(directory, CONFIG), _read(directory, GENERATION)
        numbers = {**config, **{name: value for name, value in generation.items() if value is not None}}
        eos = self._id("eos", names, numbers)
        if eos is None:
            raise ArtifactError(
                f"{directory}: not a tokenizer with an end of text (no eos_token in {FILES[1]} and {SPECIAL_TOKENS}, "
                f"no eos_token_id in {GENERATION} and {CONFIG})"
            )
        self.eos = eos
        listed = [number for where in (generation, config) for number in _ids(where.get("eos_token_id"))]
        self.ends = tuple(dict.fromkeys([eos, *listed]))
        """The ids that end a generated text, EOS first: those of the tokenizer, of generation_config.json and of config.json."""
        bos, pad = (self._id(kind, names, numbers) for kind in ("bos", "pad"))
        self.has_bos = bos is not None
        embedded = config.get("vocab_size")
        self.bos = eos if bos is None else bos
        self.pad = eos if pad is None or (isinstance(embedded, int) and pad >= embedded) else pad
        special = (number for number, token in self._tokenizer.get_added_tokens_decoder().items() if token.special)
        bytes_ = (number for name, number in self._tokenizer.get_vocab().items() if BYTE.fullmatch(name))
        self._open = frozenset([*special, *bytes_])  # what follows these may still change their text
        self._clean = bool(names.get("clean_up_tokenization_spaces")) and not isinstance(
            self._tokenizer.model, models.BPE
        )

    def _mark_special(self, names: dict[str, Any]) -> None:
        """Mark as special the tokens that the configuration names as special, as transformers does."""
        listed = [value for name, value in names.items() if name.endswith("_token")]
        for extra in ("additional_special_tokens", "extra_special_tokens"):
            found = names.get(extra) or []
            listed += list(found.values()) if isinstance(found, dict) else found
        declared = names.get("added_tokens_decoder") or {}
        listed += [token for token in declared.values() if isinstance(token, dict) and token.get("special")]
        known = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        for token in listed:
            content = token.get("content") if isinstance(token, dict) else token
            if not isinstance(content, str) or content in known or self._tokenizer.token_to_id(content) is None:
                continue
            sides = ("lstrip", "rstrip", "single_word", "normalized") if isinstance(token, dict) else ()
            options = {side: bool(token.get(side)) for side in sides}
            self._tokenizer.add_special_tokens([AddedToken(content, special=True, **options)])

    def _id(self, kind: str, names: dict[str, Any], numbers: dict[str, Any]) -> int | None:
        token = names.get(f"{kind}_token")
        name = token.get("content") if isinstance(token, dict) else token
        found: int | None = None if name is None else self._tokenizer.token_to_id(name)
        return found if found is not None else next(iter(_ids(numbers.get(f"{kind}_token_id"))), None)

    def save(self, directory: Path) -> None:
        """Write the tokenizer of a model trained here: BOS first, as in training, and the names of its special tokens.

        generation_config.json is written if a text has several ends.
        """
        names = {
            name: value
            for name, value in _read(self.directory, FILES[1]).items()
            if name not in ("add_bos_token", "add_eos_token")
        }
        special = {"eos_token": self.eos, "bos_token": self.bos, "pad_token": self.pad}
        for kind, number in special.items():
            if names.get(kind) is None:
                names[kind] = self._tokenizer.id_to_token(number)
        names["tokenizer_class"] = "PreTrainedTokenizerFast"  # its own class may ignore the template
        made = Tokenizer.from_str(self._tokenizer.to_str())
        begin_with(made, self.bos)
        write_text(directory / FILES[0], made.to_str(pretty=True))
        write_json(directory / FILES[1], names)
        if len(self.ends) > 1:
            write_json(directory / GENERATION, self.special_ids())

    def special_ids(self) -> dict[str, Any]:
        """BOS, EOS (a list of several ends) and padding, under the names of transformers' configurations."""
        ends = self.ends[0] if len(self.ends) == 1 else list(self.ends)
        return {"bos_token_id": self.bos, "eos_token_id": ends, "pad_token_id": self.pad}

    @property
    def size(self) -> int:
        """Embeddings that the vocabulary needs: its largest id plus 1."""
        return max(self._tokenizer.get_vocab().values()) + 1

    @property
    def needed(self) -> int:
        """Embeddings that ordinary texts need. Added special tokens beyond them, such as [PAD], occur in no text."""
        texts = self._tokenizer.get_vocab(with_added_tokens=False).values()
        used = [number for number, token in self._tokenizer.get_added_tokens_decoder().items() if not token.special]
        return max([*texts, *used, self.bos, self.eos]) + 1

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """BOS, the tokens of `text`, EOS, truncated to `max_tokens` ids. A truncated text has no EOS."""
        return [*self.begin(text), self.eos][:max_tokens]

    def begin(self, text: str) -> list[int]:
        """BOS and the tokens of `text`: a prompt for a model trained here."""
        return [self.bos, *self._tokenizer.encode(text, add_special_tokens=False).ids]

    def prompt(self, text: str) -> list[int]:
        """The tokens of `text` with the special tokens of the tokenizer's own template: a prompt for a published model."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """BOS, the tokens of a text, EOS, for each of `texts`."""
        return [[self.bos, *ids, self.eos] for ids in self.encode_parts(texts)]

    def encode_parts(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each of `texts` alone."""
        return [encoded.ids for encoded in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """The text of generated `ids` (without BOS) up to the first end, without special tokens."""
        end = next((index for index, token in enumerate(ids) if token in self.ends), len(ids))
        return self.text(ids[:end])

    def text(self, ids: list[int]) -> str:
        """The text of `ids` without special tokens, which do not end it."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        if self._clean:
            for found, cleaned in CLEANED.items():
                text = text.replace(found, cleaned)
        return text

    def settled(self, ids: list[int]) -> str:
        """The beginning of `text(ids)` that no further id changes.

        A run of byte tokens is one piece: another byte may turn it into other characters.
        """
        end = len(ids)
        while end and ids[end - 1] in self._open:
            end -= 1
        text = self.text(ids[:end]).rstrip("\N{REPLACEMENT CHARACTER}")
        return text[:-UNSETTLED] if self._clean else text


def begin_with(tokenizer: Tokenizer, bos: int) -> None:
    """Make BOS the beginning of every text that `tokenizer` encodes with special tokens."""
    name = tokenizer.id_to_token(bos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[name, "$A"], pair=[name, "$A", "$B:1"], special_tokens=[(name, bos)]
    )


def check_vocabulary(tokenizer: TextTokenizer, vocabulary: int, where: Path | str) -> None:
    """Raise `ArtifactError` unless a model with `vocabulary` token embeddings covers every token of a text."""
    if tokenizer.needed > vocabulary:
        raise ArtifactError(
            f"{where}: its vocabulary of {vocabulary:,} does not match the tokenizer, which has {tokenizer.needed:,} tokens; "
            "use the tokenizer that the model was trained with"
        )


def _read(directory: Path, name: str) -> dict[str, Any]:
    """A JSON file of the folder, or nothing where it is missing."""
    return read_hub_config(directory, name) if (directory / name).is_file() else {}


def _named(names: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in names.items() if value is not None}


def _ids(value: Any) -> list[int]:
    """Token ids from a configuration: one, several, or null."""
    found = value if isinstance(value, list) else [value]
    return [number for number in found if isinstance(number, int) and number >= 0]
