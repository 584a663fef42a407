"""The check of a table of records: keys are unique, and every group is in one split.

It holds 8 bytes for each record. Equal hashes only raise a suspicion; the texts themselves decide.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from glassworks.config.datasets import SPLITS
from glassworks.errors import DataError

BATCH = 1 << 14
"""Rows decoded at a time."""
SPLIT_BITS = 2
"""Low bits of a word that hold the split; the others are those of the hash."""


def check(dataset: str, file: Path) -> None:
    """Raise `DataError` unless keys are unique and every group is in one split. Names the first one of the table."""
    if (key := _first_fault(file, "key")) is not None:
        raise DataError(f"{dataset}: two samples have the key {key!r}")
    if (group := _first_fault(file, "group")) is not None:
        raise DataError(f"{dataset}: the group {group!r} is in two splits")


def _first_fault(file: Path, column: str) -> str | None:
    """The first key of several rows, or the first group in several splits."""
    words = np.empty(pq.ParquetFile(file).metadata.num_rows, np.uint64)
    start = 0
    for _, part in _batches(file, column):
        words[start : start + len(part)] = part
        start += len(part)
    words.sort()
    steps = words[1:] ^ words[:-1]
    alike = steps < 1 << SPLIT_BITS
    if column == "group":
        alike &= steps > 0
    suspects = np.unique(words[1:][alike] >> SPLIT_BITS)
    while len(suspects):
        hashed, rows = _look_again(file, column, suspects)
        for text, splits in rows.items():
            if (len(splits) if column == "group" else splits.total()) > 1:
                return text
        suspects = suspects[suspects != hashed]
    return None


def _look_again(file: Path, column: str, suspects: np.ndarray) -> tuple[int, dict[str, Counter[int]]]:
    """The first hash of the table that is among `suspects`, and the rows of each text with this hash, counted by split."""
    hashed, rows = -1, dict[str, Counter[int]]()
    for texts, words in _batches(file, column):
        hashes = words >> SPLIT_BITS
        if hashed < 0 and (suspected := np.isin(hashes, suspects)).any():
            hashed = int(hashes[suspected.argmax()])
        for row in np.flatnonzero(hashes == hashed) if hashed >= 0 else ():
            rows.setdefault(texts[row], Counter())[int(words[row]) & (1 << SPLIT_BITS) - 1] += 1
    return hashed, rows


def _batches(file: Path, column: str) -> Iterator[tuple[list[str], np.ndarray]]:
    """The texts of a column, and uint64 [rows]: the hash of each and, in the low bits, the split."""
    for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=["split", column]):
        texts = batch[column].to_pylist()
        hashes = np.fromiter(map(hash, texts), np.int64, len(texts)).view(np.uint64)
        splits = pc.index_in(batch["split"], pa.array(SPLITS)).to_numpy().astype(np.uint64)
        yield texts, hashes >> SPLIT_BITS << SPLIT_BITS | splits
