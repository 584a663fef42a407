"""Sudoku puzzles on 6x6 boards: a pure function of parameters and seed. The group of a board is the symmetry class of its grid.

A split draws a class uniformly, then a grid of the class, then the order in which cells are emptied. Labels: `puzzle` and `solution`, strings of 36 characters, and
`givens`, the number of filled cells.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from glassworks.config.datasets import SPLITS, Split
from glassworks.data.records import Record
from glassworks.data.splits import share
from glassworks.data.sudoku import draw_grid, draw_puzzle, to_text
from glassworks.pipeline.execution import Context
from glassworks.progress import track
from glassworks.sources.sudoku.settings import CLASSES


def records(context: Context) -> Iterator[Record]:
    """Every board of every split."""
    params = context.params
    split_classes = classes_by_split(params["held_out_classes"], params["seed"])
    numbers = [(split, index) for split in SPLITS for index in range(params["samples"].get(split, 0))]
    for split, index in track(numbers, "making", len(numbers), "boards"):
        yield board(params["seed"], split, index, split_classes[split], params["givens"])


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function that returns no media: a record holds its board."""
    return lambda record: {}


def classes_by_split(held_out: Mapping[str, int], seed: int) -> dict[Split, list[int]]:
    """The symmetry classes of each split, from a hash order of all classes."""
    order = sorted(range(CLASSES), key=lambda number: share(seed, "symmetry class", str(number)))
    first, second = held_out["test"], held_out["test"] + held_out["validation"]
    return {
        "test": sorted(order[:first]),
        "validation": sorted(order[first:second]),
        "train": sorted(order[second:]),
    }


def board(seed: int, split: Split, index: int, classes: list[int], givens: int | None) -> Record:
    """Board number `index` of a split."""
    digest = hashlib.sha256(f"{seed}/sudoku/{split}/{index}".encode()).digest()
    random = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "big")))
    number = classes[int(random.integers(len(classes)))]
    grid = draw_grid(number, random)
    puzzle = draw_puzzle(grid, random, givens)
    labels = {"puzzle": to_text(puzzle), "solution": to_text(grid), "givens": int((puzzle >= 0).sum())}
    return Record(f"{split}-{index:06d}", split, f"class-{number:02d}", labels=labels)
