"""Texts packed into rows of one length. Each shard is planned once, from the lengths of its texts.

The plan is a pure function of the lengths. Attention is masked between packed texts, so the choice of texts in a row does not matter. Rows are shuffled,
texts are not.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np

from glassworks.data.reading.rows import Samples
from glassworks.data.reading.tokens import Tokens

Packing = Literal["documents", "stream"]


class Piece(NamedTuple):
    """A span of a text: `length` inputs from its token `start` on. A text longer than a row is split into several."""

    text: int
    start: int
    length: int


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
    of a shard may be shorter.
    """

    def __init__(self, dataset: Samples, tokens: Tokens, row_tokens: int, packing: Packing) -> None:
        self.dataset, self.tokens, self.row_tokens, self.packing = dataset, tokens, row_tokens, packing
        self.plans = []
        first = 0
        for size in dataset.shard_sizes:
            lengths = np.diff(tokens.ends[first : first + size], prepend=tokens.ends[first - 1] if first else 0)
            if packing == "documents":
                self.plans.append(
                    [
                        [piece._replace(text=piece.text + first) for piece in row]
                        for row in pack(lengths - 1, row_tokens)
                    ]
                )
            else:
                self.plans.append(cut(lengths, row_tokens, first))
            first += size
        self.shard_sizes = [len(plan) for plan in self.plans]
        self.ends = list(accumulate(self.shard_sizes))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        pieces = self._pieces(index)
        at = self._places(pieces)
        documents = np.repeat(np.arange(len(pieces)), [piece.length for piece in pieces])
        inputs, targets = self.tokens.ids[at].astype(np.int64), self.tokens.ids[at + 1].astype(np.int64)
        return Row(self.dataset[pieces[0].text].key, inputs, targets, documents)

    def texts(self, index: int) -> np.ndarray:
        """int64 [tokens]: the text of each target of a row."""
        return np.searchsorted(self.tokens.ends, self._places(self._pieces(index)) + 1, side="right")

    def _pieces(self, index: int) -> list[Piece]:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        return self.plans[shard][index - (self.ends[shard] - self.shard_sizes[shard])]

    def _places(self, pieces: list[Piece]) -> np.ndarray:
        """int64 [tokens]: positions of the inputs of a row among all tokens."""
        starts = [(int(self.tokens.ends[piece.text - 1]) if piece.text else 0) + piece.start for piece in pieces]
        return np.concatenate([np.arange(at, at + piece.length) for at, piece in zip(starts, pieces, strict=True)])


def pack(lengths: np.ndarray, capacity: int) -> list[list[Piece]]:
    """Rows of pieces, each of at most `capacity` inputs, by best-fit decreasing bin packing (Johnson, 1974).

    Texts longer than a row are split. Pieces of a row are sorted by text, rows by their first piece.
    """
    pieces = [
        Piece(text, start, min(capacity, int(length) - start))
        for text, length in enumerate(lengths)
        for start in range(0, int(length), capacity)
    ]
    rows: list[list[Piece]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # rows by free tokens
    for piece in sorted(pieces, key=lambda piece: -piece.length):
        room = next((room for room in range(piece.length, capacity + 1) if with_room[room]), None)
        if room is None:
            row, room = len(rows), capacity
            rows.append([])
        else:
            row = with_room[room].pop()
        rows[row].append(piece)
        with_room[room - piece.length].append(row)
    return sorted(sorted(row) for row in rows)


def cut(lengths: np.ndarray, row_tokens: int, first: int) -> list[list[Piece]]:
    """The texts from `first` on as one stream of tokens, cut into rows. Every token but the first is a target once."""
    total = int(lengths.sum())
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = []
    for begin in range(0, max(total - 1, 0), row_tokens):
        text = int(np.searchsorted(starts, begin, side="right")) - 1
        rows.append([Piece(first + text, begin - int(starts[text]), min(row_tokens, total - 1 - begin))])
    return rows
