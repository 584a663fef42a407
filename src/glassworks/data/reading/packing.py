"""Samples packed into rows under limits such as tokens and crops. Each shard is planned once, from the measured sizes of its samples.

The plan is a pure function of the sizes. Attention is masked between packed samples, so the choice of samples in a row does not matter. Rows are shuffled,
samples are not.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import ge, sub
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from glassworks.artifacts.digests import disk_errors, flush_to_disk
from glassworks.artifacts.machine import unique_name
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.tokens import Tokens
from glassworks.errors import DataError

Packing = Literal["documents", "stream"]


class Plan(NamedTuple):
    """The samples of every row of a split, as arrays that workers map into memory."""

    shard_sizes: np.ndarray
    """int64 [shards]: rows of each shard."""
    starts: np.ndarray
    """int64 [rows + 1]: the first item of each row, and the number of items."""
    items: np.ndarray
    """int32 [items, 3]: index of the sample in the split, first token, number of tokens. A text longer than a row has several items."""

    def row(self, index: int) -> np.ndarray:
        """int64 [n, 3]: the items of a row."""
        return self.items[self.starts[index] : self.starts[index + 1]].astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write one .npy file for each array. `folder` appears by one rename; if another worker has already written it, it stays."""
        temporary = folder.with_name(f".{folder.name}.{unique_name()}.tmp")
        try:
            with disk_errors(folder):
                temporary.mkdir(parents=True, exist_ok=True)
                for name, array in self._asdict().items():
                    np.save(temporary / f"{name}.npy", array)
                    flush_to_disk(temporary / f"{name}.npy")
                flush_to_disk(temporary)
                try:
                    temporary.rename(folder)
                except OSError:
                    if not folder.is_dir():
                        raise
                flush_to_disk(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> "Plan":
        """The plan written by `save`, mapped into memory."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls._fields))


@dataclass(frozen=True)
class Row:
    """One row of packed texts, as int64 arrays of one length."""

    key: str
    """Key of the sample of its first text."""
    inputs: np.ndarray
    targets: np.ndarray
    """The next token of each input."""
    documents: np.ndarray
    """The index of the text in the row, for each input."""
    loss_weight: float = 1.0
    """Factor of the training loss of every token."""


class PackedTexts:
    """The texts of a split in rows of up to `row_tokens` inputs (`Rows[Row]`).

    "documents" packs whole texts, each from BOS to EOS. "stream" concatenates the texts of a shard and cuts a row every `row_tokens` inputs. The last row
    of a shard may be shorter. `folder` caches the plan.
    """

    def __init__(
        self, dataset: Samples, tokens: Tokens, row_tokens: int, packing: Packing, folder: Path | None = None
    ) -> None:
        self.dataset, self.tokens = dataset, tokens
        if folder is not None and folder.is_dir():
            self.plan = Plan.load(folder)
        else:
            self.plan = plan_texts(dataset.shard_sizes, tokens, row_tokens, packing)
            if folder is not None:
                self.plan.save(folder)
                self.plan = Plan.load(folder)
        self.shard_sizes = [int(size) for size in self.plan.shard_sizes]

    def __len__(self) -> int:
        return len(self.plan.starts) - 1

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        items = self.plan.row(index)
        at = self._places(items)
        documents = np.repeat(np.arange(len(items)), items[:, 2])
        inputs, targets = self.tokens.ids[at].astype(np.int64), self.tokens.ids[at + 1].astype(np.int64)
        return Row(self.dataset[int(items[0, 0])].key, inputs, targets, documents)

    def texts(self, index: int) -> np.ndarray:
        """int64 [tokens]: the text of each target of a row."""
        return np.searchsorted(self.tokens.ends, self._places(self.plan.row(index)) + 1, side="right")

    def _places(self, items: np.ndarray) -> np.ndarray:
        """int64 [tokens]: positions of the inputs of a row among all tokens."""
        texts, starts, lengths = items.T
        begins = np.where(texts > 0, self.tokens.ends[texts - 1], 0) + starts
        return np.repeat(begins - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())


def plan_texts(shard_sizes: Sequence[int], tokens: Tokens, row_tokens: int, packing: Packing) -> Plan:
    """The plan of the texts of a split. A text of n tokens has n - 1 inputs."""
    lengths = np.diff(tokens.ends, prepend=0)
    if packing == "documents":
        return plan(shard_sizes, lengths[:, None] - 1, {"tokens": row_tokens}, split=True)
    return _join(shard_sizes, [cut(part, row_tokens) for part in _by_shard(shard_sizes, lengths)])


def plan(
    shard_sizes: Sequence[int],
    sizes: np.ndarray,
    limits: Mapping[str, int],
    split: bool = False,
    name: Callable[[int], str] = "sample {}".format,
) -> Plan:
    """The plan of a split from the measured sizes of its samples, int [samples, limits]. Each shard is packed by itself; see `pack`."""

    def named(first: int) -> Callable[[int], str]:
        return lambda sample: name(first + sample)

    parts = zip(accumulate(shard_sizes, initial=0), _by_shard(shard_sizes, sizes), strict=False)
    packed = [pack(part, limits, split, named(first)) for first, part in parts]
    return _join(shard_sizes, packed)


def pack(
    sizes: np.ndarray,
    limits: Mapping[str, int],
    split: bool = False,
    name: Callable[[int], str] = "sample {}".format,
) -> Plan:
    """Rows within `limits` by best-fit decreasing bin packing (Johnson, 1974), as a plan of one shard.

    `sizes`, int [samples, limits], has the sizes of each sample in the order of `limits`. The first limit counts tokens; samples without tokens are left out.
    Samples are placed by their largest share of a limit, largest first, equal ones in their order. A sample goes to the row that has the fewest tokens left
    among those with room for it. Items of a row are sorted by sample, rows by their first item.

    A sample larger than a limit raises `DataError`, which calls it `name(sample)`. With `split`, a sample with more tokens than a row is split into several
    items if it has nothing but tokens.
    """
    sizes, most = np.asarray(sizes, np.int64), np.array(list(limits.values()), np.int64)
    tokens, row_tokens = sizes[:, 0], int(most[0])
    divisible = (sizes[:, 1:] == 0).all(axis=1) if split else np.zeros(len(sizes), bool)
    over = sizes > most
    over[divisible, 0] = False
    if over.any():
        sample = int(over.any(axis=1).argmax())
        raise DataError(
            f"{name(sample)}: {_amounts(limits, sizes[sample])}, and a row has room for {_amounts(limits, most)}; "
            f"shorten the sample or raise the limit, since samples are never cut inside an image"
        )
    counts = -(-tokens // row_tokens)
    samples = np.repeat(np.arange(len(sizes)), counts)
    starts = (np.arange(len(samples)) - np.repeat(np.cumsum(counts) - counts, counts)) * row_tokens
    pieces = sizes[samples]
    pieces[:, 0] = np.minimum(pieces[:, 0] - starts, row_tokens)
    order = np.argsort(-(pieces / most).max(axis=1), kind="stable")
    rows = np.empty(len(pieces), np.int64)
    rows[order] = _best_fit(pieces[order].tolist(), *most.tolist())
    _, first, counts = np.unique(rows, return_index=True, return_counts=True)
    by_first = np.argsort(first)
    rank = np.argsort(by_first)
    items = np.stack([samples, starts, pieces[:, 0]], axis=1)[np.argsort(rank[rows], kind="stable")]
    return Plan(np.array([len(first)]), np.cumsum([0, *counts[by_first]]), items.astype(np.int32))


def _best_fit(pieces: list[list[int]], row_tokens: int, *others: int) -> list[int]:
    """The row of each piece (tokens, …), in the order given. Among equally full rows, the piece goes to the row filled last.

    Bit n of `rooms[free]` is set if some row has n tokens left, and `free` of the other limits. The lowest bit that is large enough is the best fit.
    The cost of a piece grows with the number of different `free`: 13 for a limit of 12 crops.
    """
    rooms: dict[tuple[int, ...], int] = {}
    rows_with: defaultdict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
    chosen, count = [], 0
    for length, *needs in pieces:
        best = None
        for free, bits in rooms.items():
            if all(map(ge, free, needs)) and (enough := bits >> length):
                found = length + (enough & -enough).bit_length() - 1, free
                best = found if best is None else min(best, found)
        if best is None:
            row, best = count, (row_tokens, others)
            count += 1
        else:
            row = rows_with[best].pop()
            if not rows_with[best]:
                rooms[best[1]] ^= 1 << best[0]
                if not rooms[best[1]]:
                    del rooms[best[1]]
        left, free = best[0] - length, tuple(map(sub, best[1], needs))
        rooms[free] = rooms.get(free, 0) | 1 << left
        rows_with[left, free].append(row)
        chosen.append(row)
    return chosen


def cut(lengths: np.ndarray, row_tokens: int) -> Plan:
    """The texts of a shard as one stream of tokens, cut into rows. Every token but the first is a target once."""
    total = int(lengths.sum())
    begins = np.arange(0, max(total - 1, 0), row_tokens)
    ends = np.cumsum(lengths)
    texts = np.searchsorted(ends, begins, side="right")
    items = np.stack([texts, begins - (ends - lengths)[texts], np.minimum(row_tokens, total - 1 - begins)], axis=1)
    return Plan(np.array([len(begins)]), np.arange(len(begins) + 1), items.astype(np.int32))


class Layout(NamedTuple):
    """The documents of a row, as int64 [tokens] each. A document is a text or a message tree: a context and branches that do not see each other."""

    documents: np.ndarray
    """The index of the document in the row."""
    branches: np.ndarray
    """0 in the context, which all branches see; the number of the branch, from 1, after it."""
    positions: np.ndarray
    """The position in the document. Every branch continues from the end of the context."""


def lay_out(documents: Sequence[Sequence[int]]) -> Layout:
    """The layout of a row of documents, each given by the tokens of its context and of its branches, in this order. A text is a context alone."""
    parts = [
        (number, branch, document[0] if branch else 0, length)
        for number, document in enumerate(documents)
        for branch, length in enumerate(document)
    ]
    numbers, branches, begins, lengths = np.array(parts, np.int64).reshape(-1, 4).T
    positions = np.arange(lengths.sum()) + np.repeat(begins - np.cumsum(lengths) + lengths, lengths)
    return Layout(np.repeat(numbers, lengths), np.repeat(branches, lengths), positions)


def _by_shard(shard_sizes: Sequence[int], values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, list(accumulate(shard_sizes))[:-1]) if shard_sizes else []


def _join(shard_sizes: Sequence[int], plans: Sequence[Plan]) -> Plan:
    """The plans of all shards as the plan of the split."""
    items, starts, count = [np.empty((0, 3), np.int32)], [np.zeros(1, np.int64)], 0
    for first, part in zip(accumulate(shard_sizes, initial=0), plans, strict=False):
        items.append(part.items + np.array([first, 0, 0], np.int32))
        starts.append(part.starts[1:] + count)
        count += len(part.items)
    sizes = np.array([len(part.starts) - 1 for part in plans], np.int64)
    return Plan(sizes, np.concatenate(starts), np.concatenate(items))


def _amounts(limits: Mapping[str, int], sizes: np.ndarray) -> str:
    return " and ".join(f"{size:,} {limit}" for limit, size in zip(limits, sizes.tolist(), strict=True))
