"""Texts to token ids and back, with the tokenizer of an artefact."""

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
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
TEMPLATE = "chat_template.jinja"
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
        self.names = {
            name: text for name, value in names.items() if name.endswith("_token") and (text := _content(value))
        }
        """The named special tokens, such as `eos_token`: the variables of a chat template."""
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
            content = _content(token)
            if content is None or content in known or self._tokenizer.token_to_id(content) is None:
                continue
            sides = {side: bool(token.get(side)) for side in ("lstrip", "rstrip", "single_word", "normalized")}
            options = sides if isinstance(token, dict) else {}
            self._tokenizer.add_special_tokens([AddedToken(content, special=True, **options)])

    def _id(self, kind: str, names: dict[str, Any], numbers: dict[str, Any]) -> int | None:
        name = _content(names.get(f"{kind}_token"))
        found: int | None = None if name is None else self._tokenizer.token_to_id(name)
        return found if found is not None else next(iter(_ids(numbers.get(f"{kind}_token_id"))), None)

    def save(self, directory: Path, chat_template: str | None = None) -> None:
        """Write the tokenizer of a model trained here: BOS first, as in training, the names of its special tokens, and its chat template if one is given.

        generation_config.json is written if a text has several ends.
        """
        left_out = {"add_bos_token", "add_eos_token", *({"chat_template"} if chat_template is not None else ())}
        names = {name: value for name, value in _read(self.directory, FILES[1]).items() if name not in left_out}
        if chat_template is not None:
            write_text(directory / TEMPLATE, chat_template)
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

    def id_of(self, token: str) -> int | None:
        """The id of a token; None if there is none."""
        number: int | None = self._tokenizer.token_to_id(token)
        return number

    @cached_property
    def added(self) -> tuple[str, ...]:
        """The texts of all added tokens, special or not."""
        return tuple(token.content for token in self._tokenizer.get_added_tokens_decoder().values())

    @cached_property
    def special(self) -> re.Pattern[str]:
        """Matches a special token in a text, with the white space that it takes in."""
        tokens = [token for token in self._tokenizer.get_added_tokens_decoder().values() if token.special]
        tokens.sort(key=lambda token: len(token.content), reverse=True)
        spaces = (r"\s*", "")
        parts = [f"{spaces[not token.lstrip]}{re.escape(token.content)}{spaces[not token.rstrip]}" for token in tokens]
        return re.compile("|".join(parts) or "(?!)")

    def encode_chat(self, text: str, mark: str = "") -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a rendered chat, whose special tokens become their ids, and begin and end of each in the text.

        A special token that `mark` breaks is text: positions and tokens are those of the text without marks.
        """
        if not mark:
            self._tokenizer.encode_special_tokens = False
            try:
                encoded = self._tokenizer.encode(text, add_special_tokens=False)
            finally:
                self._tokenizer.encode_special_tokens = True
            return encoded.ids, _without_gaps(encoded.offsets)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        done = begin = 0  # in `text`, and in the text without marks
        for match in [*self.special.finditer(text), None]:
            end, found = (match.start(), match.group().strip()) if match else (len(text), "")
            plain = text[done:end].replace(mark, "")
            if plain:
                part, places = self._encode_text(plain, first=not ids)
                ids += part
                offsets += [(begin + low, begin + high) for low, high in places]
            begin += len(plain)
            if match:
                ids += [number for number in [self.id_of(found)] if number is not None]
                offsets.append((begin, begin + len(match.group())))
                begin, done = begin + len(match.group()), match.end()
        return ids, offsets

    def _encode_text(self, text: str, first: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a text without special tokens, alone or after a special token."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        if not first and self._prefixed:  # without the space that begins a text
            line = self._tokenizer.encode("\n", add_special_tokens=False).ids
            after = self._tokenizer.encode("\n" + text, add_special_tokens=False)
            if after.ids[: len(line)] == line:
                return after.ids[len(line) :], [(a - 1, b - 1) for a, b in _without_gaps(after.offsets)[len(line) :]]
        return encoded.ids, _without_gaps(encoded.offsets)

    @cached_property
    def _prefixed(self) -> bool:
        """Whether a text begins with a space that it lacks after a special token."""
        alone = self._tokenizer.encode("a", add_special_tokens=False).ids
        return self.encode_chat(f"{self._tokenizer.id_to_token(self.eos)}a")[0][1:] != alone

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

    def shown(self, ids: list[int]) -> str:
        """The text of `ids` with special tokens."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
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


def _content(token: Any) -> str | None:
    """The text of a special token in a configuration, which names it or describes it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _without_gaps(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Begin and end of each token in the text; a token begins where the one before it ends. Some tokenizers leave spaces out."""
    ends = [0, *accumulate((end for _, end in offsets), max)]
    return [(min(begin, before), max(end, before)) for (begin, end), before in zip(offsets, ends, strict=False)]


def _named(names: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in names.items() if value is not None}


def _ids(value: Any) -> list[int]:
    """Token ids from a configuration: one, several, or null."""
    found = value if isinstance(value, list) else [value]
    return [number for number in found if isinstance(number, int) and number >= 0]
