"""Documents packed into rows under limits such as tokens and crops. Each shard is planned once, from the measured sizes of its samples.

A document is a text, a conversation or a message tree (`data.reading.tokens`).

The plan is a pure function of the sizes. Attention is masked between packed samples, so the choice of samples in a row does not matter. Rows are shuffled,
samples are not.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import ge, sub
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glassworks.config.packing import Packing as Settings
from glassworks.data.reading.arrays import load_arrays, save_arrays
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import Chat, Tokens, tokenize
from glassworks.errors import DataError

TOKENS, PLAN = "tokens", "plan"
"""Folders of the arrays of a packed split."""


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
        """Write one .npy file for each array."""
        save_arrays(folder, self._asdict())

    @classmethod
    def load(cls, folder: Path) -> "Plan":
        """The plan written by `save`, mapped into memory."""
        return cls(**load_arrays(folder))


@dataclass(frozen=True)
class Row:
    """One row of packed documents, as arrays of one length."""

    key: str
    """Key of the sample of its first document."""
    inputs: np.ndarray
    """int64."""
    targets: np.ndarray
    """int64: the next token of each input."""
    documents: np.ndarray
    """int64: the index of the document in the row, for each input."""
    loss_weight: float = 1.0
    """Factor of the training loss of every token."""
    weights: np.ndarray | None = None
    """float32: the weight of the loss of each target; None for 1."""
    branches: np.ndarray | None = None
    """int64 (`Layout`); None in a row without message trees."""
    positions: np.ndarray | None = None
    """int64 (`Layout`); None with `branches`."""
    seed: int = 0
    """Of the draws for this row in training."""


class PackedRows:
    """The documents of a split in the rows of a plan (`Rows[Row]`)."""

    def __init__(self, dataset: Samples, tokens: Tokens, plan: Plan) -> None:
        self.dataset, self.tokens, self.plan = dataset, tokens, plan
        self.shard_sizes = [int(size) for size in plan.shard_sizes]

    def __len__(self) -> int:
        return len(self.plan.starts) - 1

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        items, tokens = self.plan.row(index), self.tokens
        places, lengths = self._places(items)
        layout = lay_out(lengths)
        trees = any(len(document) > 1 for document in lengths)
        return Row(
            self.dataset[int(items[0, 0])].key,
            tokens.ids[places].astype(np.int64),
            tokens.ids[places + 1].astype(np.int64),
            layout.documents,
            weights=None if tokens.weights is None else tokens.weights[places + 1],
            branches=layout.branches if trees else None,
            positions=layout.positions if trees else None,
        )

    def texts(self, index: int) -> np.ndarray:
        """int64 [tokens]: the document of each target of a row."""
        return np.searchsorted(self.tokens.ends, self._places(self.plan.row(index))[0] + 1, side="right")

    def samples(self, index: int) -> list[int]:
        """The index of the sample of each document of a row."""
        return [int(sample) for sample in self.plan.row(index)[:, 0]]

    def _places(self, items: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
        """int64 [tokens]: positions of the inputs of a row among all tokens; and the inputs of each segment, by document."""
        begins: list[int] = []
        lengths: list[list[int]] = []
        for document, start, length in items.tolist():
            bounds = self.tokens.bounds(document)
            if len(bounds) == 2:
                begins.append(bounds[0] + start)
                lengths.append([length])
            else:
                begins += bounds[:-1]
                lengths.append([end - begin - 1 for begin, end in pairwise(bounds)])
        counts = np.array([length for document in lengths for length in document], np.int64)
        return np.repeat(np.array(begins) - np.cumsum(counts) + counts, counts) + np.arange(counts.sum()), lengths


def arrange(
    dataset: Samples, tokenizer: TextTokenizer, packing: Settings, folder: Path | None = None, chat: Chat | None = None
) -> PackedRows:
    """The documents of a split in rows. `folder` holds tokens and plan: they are mapped from it, or made and written into it."""
    if folder is None:
        tokens = tokenize(dataset, tokenizer, chat=chat)
        return PackedRows(dataset, tokens, plan_rows(dataset, tokens, packing))
    if not (folder / PLAN).is_dir():
        if not (folder / TOKENS).is_dir():
            tokenize(dataset, tokenizer, chat=chat).save(folder / TOKENS)
        plan_rows(dataset, Tokens.load(folder / TOKENS), packing).save(folder / PLAN)
    return PackedRows(dataset, Tokens.load(folder / TOKENS), Plan.load(folder / PLAN))


def plan_rows(dataset: Samples, tokens: Tokens, packing: Settings) -> Plan:
    """The plan of the documents of a split in rows of up to `row_tokens` inputs.

    "documents" packs whole documents, each text from BOS to EOS; a longer text is split. "stream" concatenates the texts of a shard and cuts a row every
    `row_tokens` inputs, so the last row of a shard may be shorter.

    Raises `DataError` naming the sample of a conversation or a message tree that is longer than a row, or that "stream" would cut. `too_long: drop` leaves
    such conversations out.
    """
    sizes = tokens.inputs()
    if packing.packing == "stream":
        if tokens.texts is not None:
            first = dataset[int(tokens.texts.argmin())]
            raise DataError(f"{first.where}: holds messages, which `packing: stream` would cut; use documents")
        parts = _by_shard(dataset.shard_sizes, sizes + 1)
        return _join(dataset.shard_sizes, [cut(part, packing.row_tokens) for part in parts])

    def name(document: int) -> str:
        _, *branches = [end - begin - 1 for begin, end in pairwise(tokens.bounds(document))]
        context = int(sizes[document]) - sum(branches)
        tree = f", a context of {context:,} and branches of {', '.join(f'{length:,}' for length in branches)}"
        return dataset[document].where + (tree if branches else "")

    if packing.chat is not None and (over := too_long(tokens, packing)).any():
        if packing.chat.too_long == "refuse":
            document = int(over.argmax())
            raise DataError(
                f"{name(document)}: {sizes[document]:,} tokens, and a row has room for {packing.row_tokens:,}; {over.sum():,} of {len(over):,} conversations "
                f"are longer than a row, up to {sizes[over].max():,}; raise model.max_tokens, or set data.too_long: drop, since an answer is never cut"
            )
        sizes = np.where(over, 0, sizes)
    limits, columns = {"tokens": packing.row_tokens}, [sizes]
    if packing.documents_per_row is not None:
        limits["documents"] = packing.documents_per_row
        columns.append(np.ones_like(sizes))
    if packing.images is not None and packing.images.per_row is not None:
        limits["images"] = packing.images.per_row
        columns.append(tokens.images(packing.images))
    split = np.ones(len(sizes), bool) if tokens.texts is None else tokens.texts
    return plan(dataset.shard_sizes, np.stack(columns, axis=1), limits, split, name)


def too_long(tokens: Tokens, packing: Settings) -> np.ndarray:
    """bool [documents]: the conversations and message trees that are longer than a row. A text is split."""
    whole = np.zeros(len(tokens.ends), bool) if tokens.texts is None else ~tokens.texts
    over: np.ndarray = whole & (tokens.inputs() > packing.row_tokens)
    return over


def plan(
    shard_sizes: Sequence[int],
    sizes: np.ndarray,
    limits: Mapping[str, int],
    split: bool | np.ndarray = False,
    name: Callable[[int], str] = "sample {}".format,
) -> Plan:
    """The plan of a split from the measured sizes of its samples, int [samples, limits]. Each shard is packed by itself; see `pack`."""

    def named(first: int) -> Callable[[int], str]:
        return lambda sample: name(first + sample)

    splits = _by_shard(shard_sizes, np.broadcast_to(split, len(sizes)))
    parts = zip(accumulate(shard_sizes, initial=0), _by_shard(shard_sizes, sizes), splits, strict=False)
    packed = [pack(part, limits, divisible, named(first)) for first, part, divisible in parts]
    return _join(shard_sizes, packed)


def pack(
    sizes: np.ndarray,
    limits: Mapping[str, int],
    split: bool | np.ndarray = False,
    name: Callable[[int], str] = "sample {}".format,
) -> Plan:
    """Rows within `limits` by best-fit decreasing bin packing (Johnson, 1974), as a plan of one shard.

    `sizes`, int [samples, limits], has the sizes of each sample in the order of `limits`. The first limit counts tokens; samples without tokens are left out.
    Samples are placed by their largest share of a limit, largest first, equal ones in their order. A sample goes to the row that has the fewest tokens left
    among those with room for it. Items of a row are sorted by sample, rows by their first item.

    A sample larger than a limit raises `DataError`, which calls it `name(sample)`. `split`, bool or bool [samples], allows to split a sample with more
    tokens than a row into several items; each has the other sizes of the sample.
    """
    sizes, most = np.asarray(sizes, np.int64), np.array(list(limits.values()), np.int64)
    tokens, row_tokens = sizes[:, 0], int(most[0])
    divisible = np.broadcast_to(split, len(sizes))
    over = sizes > most
    over[divisible, 0] = False
    if over.any():
        sample = int(over.any(axis=1).argmax())
        raise DataError(
            f"{name(sample)}: {_amounts(limits, sizes[sample])}, and a row has room for {_amounts(limits, most)}; "
            f"shorten the sample or raise the limit, since only plain texts are ever cut"
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
