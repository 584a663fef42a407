"""The texts of a split as token ids, tokenized once and cached in the work directory for all workers of a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glassworks.artifacts.machine import unique_name
from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import DataError

BATCH = 1000
"""Texts tokenized at a time."""


class Tokens(NamedTuple):
    """The concatenated texts of a split."""

    ids: np.ndarray
    """int32 [tokens]: every text between BOS and EOS."""
    ends: np.ndarray
    """int64 [texts]: the end of each text."""

    def text(self, index: int) -> np.ndarray:
        """The ids of one text."""
        return self.ids[(self.ends[index - 1] if index else 0) : self.ends[index]]


def tokenize(dataset: Samples, tokenizer: TextTokenizer, folder: Path | None = None) -> Tokens:
    """The tokens of all samples of a split in order, cached in `folder`."""
    if folder is not None and (folder / "ends.npy").is_file():
        return Tokens(np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "ends.npy", mmap_mode="r"))
    parts, lengths = [np.empty(0, np.int32)], [0]
    for start in range(0, len(dataset), BATCH):
        texts = [text_of(dataset, index) for index in range(start, min(start + BATCH, len(dataset)))]
        for ids in tokenizer.encode_all(texts):
            parts.append(np.array(ids, np.int32))
            lengths.append(len(ids))
    tokens = Tokens(np.concatenate(parts), np.cumsum(lengths[1:], dtype=np.int64))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in (
            ("ids", tokens.ids),
            ("ends", tokens.ends),
        ):  # `ends` last: its presence marks both as complete
            temporary = folder / f"{name}.{unique_name()}.npy"
            np.save(temporary, array)
            temporary.replace(folder / f"{name}.npy")
    return tokens


def text_of(dataset: Samples, index: int) -> str:
    """The text of a sample: its first caption, else its member txt."""
    sample = dataset[index]
    texts = read_captions(sample.members, sample.where)
    if not texts:
        raise DataError(f"{sample.where}: no text in its json or txt member")
    return texts[0]


def all_texts(dataset: Samples) -> Iterator[str]:
    """The texts of a split in order."""
    for index in range(len(dataset)):
        yield text_of(dataset, index)
