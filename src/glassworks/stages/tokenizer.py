"""The stage `tokenizer`: a tokenizer trained on the texts of the training split (byte-level BPE or characters), in transformers' format."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from glassworks.artifacts.digests import write_json
from glassworks.data.messages import texts_of
from glassworks.data.reading.text import begin_with
from glassworks.data.records import read_table
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.watchdog import unwatched

UNKNOWN = "<|unk|>"
SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}


def run(context: Context) -> dict[str, Any]:
    """The counts of the trained tokenizer. Ids 0, 1 and 2 are padding, BOS and EOS, three distinct tokens."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    read = Counter[str]()
    texts = _texts(context, read)
    made = _bytes(texts, context.params["vocab_size"]) if context.params["kind"] == "bpe" else _characters(texts)
    made.add_tokens([AddedToken(text, normalized=False) for text in context.params.get("added_tokens", ())])
    begin_with(made, made.get_vocab()[SPECIAL["bos_token"]])  # as in training
    made.save(str(context.output / "tokenizer.json"))
    write_json(context.output / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL})
    write_json(context.output / "special_tokens_map.json", SPECIAL)
    return {"vocabulary": made.get_vocab_size(), "texts": read.total()}


def _texts(context: Context, read: Counter[str]) -> Iterator[str]:
    """The texts of the training split of each input, counted in `read`. Raises `DataError` for an input without texts."""
    for role, folder in sorted(context.inputs.items()):
        for record in read_table(folder, "train"):
            for text in (*record.texts, *texts_of(record.messages)):
                read[role] += 1
                yield text
        if not read[role]:
            raise DataError(f"{folder.name}: the training split has no texts to train a tokenizer on")


def _bytes(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with unwatched():
        tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _characters(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer with one token for each character of the texts. Other characters map to the unknown token."""
    found = set[str]()
    for text in texts:
        found.update(text)
    names = [*SPECIAL.values(), UNKNOWN, *sorted(found)]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([*SPECIAL.values(), UNKNOWN])
    return tokenizer
