"""The composition of a scene: its things, their boxes and its ground.

Composition is a pure function of kinds, seed, split and index, and renders nothing. Each kind has its own part of the
canvas, so the relation of two kinds is unambiguous.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import le
from typing import TypeVar

from glassworks.config.datasets import Split
from glassworks.data.scenes.kinds import Kind, Meetings
from glassworks.data.scenes.language import COLORS, TEXTURES, Thing, View

T = TypeVar("T")
Measure = Callable[[str], list[tuple[int, int]]]
"""Width and height in pixels of a sprite in each of SIZES, given its key."""
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are one past the last."""

GRID = 72
"""Lengths below are in 72nds of the canvas."""
SIZES = (10, 12, 14, 16, 18, 20, 22, 25, 28, 32)
"""Sizes of a sprite. They are few, to scale each drawing few times. The rank of a sprite is an index into SIZES."""
SMALL = SIZES.index(16)
"""Lower ranks are used only if space is short."""
GRIDS = {1: [(1, 1)], 2: [(2, 1), (1, 2)], 3: [(3, 1), (1, 3), (2, 2)], 4: [(4, 1), (1, 4), (2, 2)]}
"""Possible columns and rows of the objects of one kind, by their number."""
ROOMY = 5
"""Up to this many objects, the space of a kind grows with its number beyond two. With more, a slender single sprite would not fit."""
MARGIN, GAP, CLOSE = 2, 5, 1
"""Distances: of things to the edge, of two kinds (at least), and of things of one kind."""
VARIANTS = 4
"""Variants of each texture."""


class Dice:
    """Random draws from a stream seeded by a digest of `seed`, identical on every machine."""

    def __init__(self, *seed: object) -> None:
        digest = hashlib.sha256("\0".join(map(str, seed)).encode()).digest()
        self.random = random.Random(int.from_bytes(digest, "big")).random

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self.random() * count)

    def choose(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]; `low` if `high` is less."""
        return low + self.below(max(high - low, 0) + 1)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """A new list in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in items]


Numbers = Callable[[Dice, int], list[int]]
"""The numbers of objects, one to four of each kind, given the number of kinds."""


@dataclass(frozen=True)
class Group:
    """The objects of one kind, close together."""

    kind: Kind
    ranks: list[int]
    """Size of each sprite, as an index into SIZES."""
    boxes: list[Box]
    """Tight box of each sprite."""

    @property
    def box(self) -> Box:
        x0, y0, x1, y1 = zip(*self.boxes, strict=True)
        return min(x0), min(y0), max(x1), max(y1)


@dataclass(frozen=True)
class Scene:
    """A composed scene."""

    groups: list[Group]
    """In the order of `view.things`."""
    view: View
    ground: tuple[str, str, int]
    """Its texture, colour and variant."""
    order: list[int]
    """The order in which captions name the things."""


def few(dice: Dice, kinds: int) -> list[int]:
    """One to three objects of each kind, at most five in total."""
    while True:
        counts = [1 + dice.below(3) for _ in range(kinds)]
        if sum(counts) <= ROOMY:
            return counts


def compose(
    kinds: list[Kind],
    meetings: Meetings,
    canvas: int,
    measure: Measure,
    seed: int,
    split: Split,
    index: int,
    numbers: Numbers = few,
) -> Scene:
    """Scene number `index` of a split, on a square canvas with a side of `canvas` pixels."""
    dice = Dice(seed, "scene", split, index)
    chosen = dice.shuffled(_who(dice, len(kinds), meetings, split))
    counts = numbers(dice, len(chosen))
    axis = dice.choose(("left of", "above"))
    lone = ""
    if len(chosen) == 3 and dice.below(3) < 2:
        lone = dice.choose(("left of", "right of") if axis == "above" else ("above", "below"))
    weights = counts if sum(counts) <= ROOMY else [min(count, 2) for count in counts]
    cells = _cells(dice, weights, axis, lone, canvas)
    groups = [
        _place(dice, kinds[who], *task, canvas, measure) for who, *task in zip(chosen, counts, cells, strict=True)
    ]
    things = [Thing(group.kind.name, len(group.boxes)) for group in groups]
    texture = "plain" if dice.below(3) else dice.choose(TEXTURES[1:])
    color = dice.choose(list(COLORS))
    view = View(things, axis, lone, (texture, color))
    return Scene(groups, view, (texture, color, dice.below(VARIANTS)), dice.shuffled(range(len(things))))


def relations(groups: list[Group]) -> list[tuple[str, str, str]]:
    """Every true (a, 'left of' or 'above', b): the boxes of the two kinds do not overlap on that axis."""
    found = []
    for a in groups:
        for b in groups:
            if a.box[2] <= b.box[0]:
                found.append((a.kind.name, "left of", b.kind.name))
            if a.box[3] <= b.box[1]:
                found.append((a.kind.name, "above", b.kind.name))
    return sorted(found)


def _who(dice: Dice, kinds: int, meetings: Meetings, split: Split) -> list[int]:
    """One to three kinds that may meet in this split; a single kind only in training."""
    roll = dice.below(20)
    if split == "train" and roll < 5:
        return [dice.below(kinds)]
    if roll < 14 or not meetings.closed[split]:
        return list(dice.choose(meetings.pairs[split]))
    pair = dice.choose(meetings.closed[split])
    return [*pair, dice.choose(meetings.third(split, pair))]


def _cells(dice: Dice, weights: list[int], axis: str, lone: str, canvas: int) -> list[Box]:
    """A part of the canvas for each kind, by their weights."""
    edge, gap = round(MARGIN * canvas / GRID), round(GAP * canvas / GRID)
    whole = (edge, edge, canvas - edge, canvas - edge)
    if not lone:
        return _cut(dice, whole, weights, axis == "left of", gap)
    sideways = axis == "above"
    first, *others = weights
    pair = [first, max(others)]
    if lone in ("left of", "above"):
        alone, rest = _cut(dice, whole, pair, sideways, gap)
    else:
        rest, alone = _cut(dice, whole, pair[::-1], sideways, gap)
    return [alone, *_cut(dice, rest, others, not sideways, gap)]


def _cut(dice: Dice, box: Box, weights: list[int], along_x: bool, gap: int) -> list[Box]:
    """A box cut along x or y into parts with gaps. Part sizes follow the weights, with some jitter."""
    start, end = (box[0], box[2]) if along_x else (box[1], box[3])
    room = end - start - gap * (len(weights) - 1)
    shares = [1 + 0.45 * (weight - 1) + 0.1 * dice.random() for weight in weights]
    parts, at = [], start
    for share in shares:
        length = int(room * share / sum(shares))
        parts.append((at, box[1], at + length, box[3]) if along_x else (box[0], at, box[2], at + length))
        at += length + gap
    return parts


def _place(dice: Dice, kind: Kind, count: int, cell: Box, canvas: int, measure: Measure) -> Group:
    """Objects of one kind in a grid of equal slots, at a random position of a cell and nearly as large as it allows."""
    close, sizes = round(CLOSE * canvas / GRID), measure(kind.key)

    def block(grid: tuple[int, int], rank: int) -> list[int]:
        """Width and height of a grid of slots."""
        return [many * side + close * (many - 1) for many, side in zip(grid, sizes[rank], strict=True)]

    def largest(grid: tuple[int, int]) -> int:
        room = (cell[2] - cell[0], cell[3] - cell[1])
        fitting = [rank for rank in range(len(SIZES)) if all(map(le, block(grid, rank), room))]
        return fitting[-1] if fitting else -1

    ranks = {grid: largest(grid) for grid in GRIDS[count]}
    best = max(ranks.values())
    roomy = [grid for grid in GRIDS[count] if ranks[grid] >= max(best - 1, min(best, 0))]
    grid = dice.choose(roomy)
    rank = _shrunk(max(ranks[grid], 0), dice.below(2))
    wide, high = sizes[rank]
    x, y = (_somewhere(dice, cell[i], cell[i + 2], block(grid, rank)[i], canvas) for i in (0, 1))
    chosen, boxes = [], []
    for place in range(count):
        row, column = divmod(place, grid[0])
        indent = (wide + close) // 2 if (row + 1) * grid[0] > count else 0  # the third of three, centred below
        smaller = _shrunk(rank, dice.below(3) == 0)
        width, height = sizes[smaller]
        left = x + column * (wide + close) + indent + dice.between(0, wide - width)
        top = y + row * (high + close) + dice.between(0, high - height)
        chosen.append(smaller)
        boxes.append((left, top, left + width, top + height))
    return Group(kind, chosen, boxes)


def _shrunk(rank: int, by: int) -> int:
    """A rank reduced by `by`, but not below SMALL."""
    return max(rank - by, min(rank, SMALL))


def _somewhere(dice: Dice, start: int, end: int, length: int, canvas: int) -> int:
    """The start of a block of some length between `start` and `end`.

    If they span most of the canvas, the block covers the middle. A thing beside it is then neither above nor below.
    """
    low, high = start, end - length
    if end - start > 0.8 * canvas:
        low, high = max(low, canvas // 2 - length + length // 4), min(high, canvas // 2 - length // 4)
    return dice.between(low, high)
