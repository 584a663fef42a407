"""Sudoku on 6x6 boards with boxes of 2 rows and 3 columns: all grids, their symmetry classes, and puzzles with one solution.

A grid is an int8 array [36], row by row, of the digits 0 … 5. As text it is a string of 36 characters, `1` … `6`, with `.` for an empty cell.

The symmetry group has 720 x 48 x 72 = 2,488,320 elements: digits are renamed (6!), rows are permuted within the 3 bands and the bands among themselves
(2!^3 x 3!), and columns within the 2 stacks and the stacks (3!^2 x 2!). Transposition would turn the boxes, so it is not a symmetry. The 28,200,960 grids fall into
49 orbits under this group.
"""

from collections.abc import Sequence
from functools import cache
from itertools import permutations

import numpy as np

SIDE, BAND, STACK = 6, 2, 3
"""Rows and columns of a grid, rows of a box, columns of a box."""
CELLS = SIDE * SIDE
BOX = np.array([row // BAND * BAND + column // STACK for row in range(SIDE) for column in range(SIDE)])
"""[36] the box of every cell."""
RELABELLINGS = np.array(list(permutations(range(SIDE))), dtype=np.int8)
"""[720, 6] every renaming of the digits."""


def _block_permutations(block: int) -> np.ndarray:
    """[permutations, 6] of rows or columns that keep blocks of `block` together."""
    blocks = SIDE // block
    inner = np.array(list(permutations(range(block))))
    choices = np.indices((len(inner),) * blocks).reshape(blocks, -1).T
    found = [
        np.concatenate([outer[part] * block + inner[choice[part]] for part in range(blocks)])
        for outer in permutations(range(blocks))
        for choice in choices
    ]
    return np.array(found)


ROWS, COLUMNS = _block_permutations(BAND), _block_permutations(STACK)
"""[48, 6] and [72, 6]: row i of the transformed grid is row ROWS[n, i] of the grid."""
POSITIONS = (ROWS[:, None, :, None] * SIDE + COLUMNS[None, :, None, :]).reshape(-1, CELLS)
"""[3456, 36]: cell i of the transformed grid is cell POSITIONS[n, i] of the grid."""


def transform(board: np.ndarray, position: int, relabelling: int) -> np.ndarray:
    """A grid or puzzle [36] under one element of the group; empty cells (-1) stay empty."""
    names = np.append(RELABELLINGS[relabelling], np.int8(-1))
    moved: np.ndarray = names[board[POSITIONS[position]]]
    return moved


@cache
def reduced_grids() -> np.ndarray:
    """[39168, 36] int8: the grids with the first row 0 1 2 3 4 5, in ascending order. Every grid is one of them, renamed: 39,168 x 720 = 28,200,960."""
    lines = RELABELLINGS
    apart = (lines[:, None] != lines[None]).all(-1)  # no digit twice in a column
    halves = np.sort(lines.reshape(-1, SIDE // STACK, STACK), axis=-1)
    boxes = apart & ~(halves[:, None, :, :, None] == halves[None, :, :, None, :]).any((-1, -2, -3))
    found = np.zeros((1, 1), dtype=np.int64)
    for row in range(1, SIDE):
        allowed = boxes[found[:, -1]] if row % BAND else apart[found[:, -1]]
        for earlier in range(row - 1):
            allowed = allowed & apart[found[:, earlier]]
        before, line = allowed.nonzero()
        found = np.column_stack([found[before], line])
    return lines[found].reshape(-1, CELLS)


def reduced_numbers(grids: np.ndarray) -> np.ndarray:
    """The indices [...] in `reduced_grids` of grids [..., 36] with their digits renamed so that the first row is 0 1 2 3 4 5."""
    names = np.argsort(grids[..., :SIDE], axis=-1)
    renamed = np.take_along_axis(names, grids.astype(np.int64), axis=-1)
    found: np.ndarray = np.searchsorted(_codes(), _code(renamed))
    return found


def _code(grids: np.ndarray) -> np.ndarray:
    """A number below 2^63 for every grid with the first row 0 1 2 3 4 5. The rows 2 to 5 decide it, and keep the order of the grids."""
    powers = SIDE ** np.arange(4 * SIDE - 1, -1, -1, dtype=np.int64)
    code: np.ndarray = grids[..., SIDE : 5 * SIDE].astype(np.int64) @ powers
    return code


@cache
def _codes() -> np.ndarray:
    return _code(reduced_grids())


@cache
def classes() -> np.ndarray:
    """[39168] the class of every reduced grid. Class c is the c-th orbit in the order of the smallest grids of the orbits, its canonical forms."""
    grids = reduced_grids()
    found = np.full(len(grids), -1)
    count = 0
    for number in range(len(grids)):
        if found[number] < 0:
            found[reduced_numbers(grids[number][POSITIONS])] = count
            count += 1
    return found


def class_of(grid: np.ndarray) -> int:
    """The number of the symmetry class of a grid [36], 0 … 48."""
    return int(classes()[reduced_numbers(grid)])


def canonical_form(grid: np.ndarray) -> np.ndarray:
    """The smallest grid [36] of the class, row by row."""
    smallest: np.ndarray = reduced_grids()[reduced_numbers(grid[POSITIONS]).min()]
    return smallest


def draw_grid(number: int, random: np.random.Generator) -> np.ndarray:
    """A grid [36] of class `number`, all grids of the class being equally likely."""
    members = (classes() == number).nonzero()[0]
    grid = reduced_grids()[members[random.integers(len(members))]]
    renamed: np.ndarray = RELABELLINGS[random.integers(len(RELABELLINGS))][grid]
    return renamed


def draw_puzzle(grid: np.ndarray, random: np.random.Generator, givens: int | None = None) -> np.ndarray:
    """A puzzle [36] whose only solution is `grid`, with -1 in empty cells.

    It is minimal: without any of its givens it has another solution. With `givens`, cells are filled in again until it has as many, if the minimal one
    has fewer.
    """
    puzzle = grid.copy()
    order = random.permutation(CELLS)
    for cell in order:
        puzzle[cell] = -1
        if count_solutions(puzzle) > 1:
            puzzle[cell] = grid[cell]
    missing = 0 if givens is None else max(0, givens - int((puzzle >= 0).sum()))
    empty = [cell for cell in order if puzzle[cell] < 0]
    puzzle[empty[:missing]] = grid[empty[:missing]]
    return puzzle


@cache
def _templates() -> tuple[list[int], list[int]]:
    """Sets of the 288 placements of one digit, as bits of an int: those that use each cell, and those that share no cell with each placement."""
    cells = []
    for columns in permutations(range(SIDE)):
        placed = [row * SIDE + column for row, column in enumerate(columns)]
        if len(set(BOX[placed])) == SIDE:
            cells.append(frozenset(placed))
    using = [sum(1 << number for number, used in enumerate(cells) if cell in used) for cell in range(CELLS)]
    apart = [sum(1 << number for number, other in enumerate(cells) if not used & other) for used in cells]
    return using, apart


def count_solutions(puzzle: np.ndarray, most: int = 2) -> int:
    """The number of solutions of a puzzle [36] with -1 in empty cells; counts up to `most`."""
    using, apart = _templates()
    fixed, taken = [(1 << len(apart)) - 1] * SIDE, [0] * SIDE
    for cell, digit in enumerate(puzzle.tolist()):
        if digit >= 0:
            fixed[digit] &= using[cell]
            for other in range(SIDE):
                if other != digit:
                    taken[other] |= using[cell]
    return _count(apart, [allowed & ~others for allowed, others in zip(fixed, taken, strict=True)], most)


def _count(apart: Sequence[int], allowed: list[int], most: int) -> int:
    """Ways to choose one placement for every digit, pairwise apart, from the sets in `allowed`; counts up to `most`."""
    if not allowed:
        return 1
    fewest = min(range(len(allowed)), key=lambda digit: allowed[digit].bit_count())
    rest, others = allowed[fewest], allowed[:fewest] + allowed[fewest + 1 :]
    found = 0
    while rest and found < most:
        lowest = rest & -rest
        rest ^= lowest
        free = apart[lowest.bit_length() - 1]
        left = [placements & free for placements in others]
        if all(left):
            found += _count(apart, left, most - found)
    return found


def to_text(board: np.ndarray) -> str:
    """A board [36] as a string of 36 characters."""
    return "".join("." if digit < 0 else str(digit + 1) for digit in board.tolist())


def from_text(text: str) -> np.ndarray:
    """The board [36] that a string of 36 characters stands for. Raises `ValueError` for another string."""
    if len(text) != CELLS or set(text) - set(".123456"):
        raise ValueError(f"{text!r} is not a 6x6 board: 36 characters, 1 to 6 or .")
    return np.array([-1 if character == "." else int(character) - 1 for character in text], dtype=np.int8)
