"""The source `sudoku`: 49 symmetry classes, puzzles with one solution, whole classes held out."""

from itertools import permutations, product

import numpy as np
import pytest

from glassworks.data import sudoku
from glassworks.data.records import Record, read_table
from glassworks.errors import ConfigError
from glassworks.sources.sudoku.source import board, classes_by_split

EASY = {"train": 30, "validation": 12, "test": 12}
HELD_OUT = {"validation": 5, "test": 10}


def random_grids(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [sudoku.draw_grid(int(random.integers(49)), random) for _ in range(count)]


def solutions(puzzle: np.ndarray) -> int:
    """All solutions of a puzzle, cell by cell, by a search that shares no code with the source."""
    empty = [cell for cell in range(36) if puzzle[cell] < 0]
    if not empty:
        return 1
    peers = [
        [
            other
            for other in range(36)
            if other != cell
            and (
                other // 6 == cell // 6
                or other % 6 == cell % 6
                or (other // 12, other % 6 // 3) == (cell // 12, cell % 6 // 3)
            )
        ]
        for cell in empty
    ]
    options = [set(range(6)) - {int(puzzle[other]) for other in near} for near in peers]
    best = min(range(len(empty)), key=lambda number: len(options[number]))
    found = 0
    for digit in options[best]:
        filled = puzzle.copy()
        filled[empty[best]] = digit
        found += solutions(filled)
    return found


def test_there_are_28200960_grids_in_49_classes():
    grids = sudoku.reduced_grids().reshape(-1, 6, 6)
    assert len(grids) * 720 == 28_200_960
    assert (np.sort(grids, axis=2) == np.arange(6)).all() and (np.sort(grids, axis=1) == np.arange(6)[:, None]).all()
    boxes = grids.reshape(-1, 3, 2, 2, 3).transpose(0, 1, 3, 2, 4).reshape(-1, 6)
    assert (np.sort(boxes, axis=1) == np.arange(6)).all()
    assert len(np.unique(grids.reshape(-1, 36), axis=0)) == len(grids)
    assert np.bincount(sudoku.classes()).sum() == len(grids) and sudoku.classes().max() == 48


def test_the_group_has_3456_permutations_of_cells_and_keeps_boxes():
    assert len(np.unique(sudoku.POSITIONS, axis=0)) == 2**3 * 6 * 6**2 * 2
    for position in sudoku.POSITIONS[::97]:
        lines = position.reshape(6, 6)
        assert all(len(set(row // 6)) == 1 for row in lines) and all(len(set(column % 6)) == 1 for column in lines.T)
        for box in range(6):
            assert len(set(sudoku.BOX[position[box == sudoku.BOX]])) == 1


def test_class_and_canonical_form_are_the_same_for_every_symmetric_grid():
    random = np.random.default_rng(2)
    for grid in random_grids(20):
        moved = sudoku.transform(grid, int(random.integers(3456)), int(random.integers(720)))
        assert (moved != grid).any()
        assert sudoku.class_of(moved) == sudoku.class_of(grid)
        assert (sudoku.canonical_form(moved) == sudoku.canonical_form(grid)).all()


def test_the_canonical_form_is_the_smallest_symmetric_grid():
    """By an exhaustive search over all positions and all first rows, without the table of grids."""
    for grid in random_grids(3):
        moved = grid[sudoku.POSITIONS]
        renamed = [np.argsort(other[:6])[other].tolist() for other in moved]
        assert sudoku.canonical_form(grid).tolist() == min(renamed)


def test_canonical_forms_separate_the_classes():
    random = np.random.default_rng(3)
    forms = {number: sudoku.to_text(sudoku.canonical_form(sudoku.draw_grid(number, random))) for number in range(49)}
    assert len(set(forms.values())) == 49
    assert sorted(forms, key=forms.__getitem__) == list(range(49))


def test_an_invariant_that_knows_no_canonical_form_agrees():
    """The digits that half rows of the left stack share, counted for every pair of bands."""

    def invariant(grid: np.ndarray) -> tuple:
        bands = grid.reshape(3, 2, 2, 3)
        shared = [
            sorted(
                len(set(bands[one, row, 0]) & set(bands[other, second, 0]))
                for row, second in product(range(2), repeat=2)
            )
            for one, other in permutations(range(3), 2)
        ]
        return tuple(map(tuple, sorted(shared)))

    random = np.random.default_rng(4)
    by_class: dict[int, set] = {}
    for grid in random_grids(60):
        by_class.setdefault(sudoku.class_of(grid), set()).add(
            invariant(sudoku.transform(grid, int(random.integers(3456)), 5))
        )
        by_class[sudoku.class_of(grid)].add(invariant(grid))
    assert all(len(found) == 1 for found in by_class.values())
    assert len({found for values in by_class.values() for found in values}) > 1


def test_puzzles_have_one_solution_and_no_given_to_spare():
    random = np.random.default_rng(5)
    for grid in random_grids(4):
        puzzle = sudoku.draw_puzzle(grid, random)
        assert solutions(puzzle) == 1 and (puzzle[puzzle >= 0] == grid[puzzle >= 0]).all()
        for cell in (puzzle >= 0).nonzero()[0][:3]:
            fewer = puzzle.copy()
            fewer[cell] = -1
            assert solutions(fewer) > 1


def test_solutions_are_counted_as_by_another_search():
    random = np.random.default_rng(6)
    for grid in random_grids(6):
        puzzle = np.where(random.random(36) < 0.45, grid, -1).astype(np.int8)
        assert sudoku.count_solutions(puzzle, most=10**9) == solutions(puzzle)


def test_a_wish_for_more_givens_fills_cells_in_again():
    grid = random_grids(1)[0]
    puzzle = sudoku.draw_puzzle(grid, np.random.default_rng(7), givens=20)
    minimal = sudoku.draw_puzzle(grid, np.random.default_rng(7))
    assert (puzzle >= 0).sum() == 20
    assert (puzzle[minimal >= 0] == minimal[minimal >= 0]).all()


def test_texts_stand_for_boards():
    puzzle = sudoku.draw_puzzle(random_grids(1)[0], np.random.default_rng(8))
    assert (sudoku.from_text(sudoku.to_text(puzzle)) == puzzle).all()
    with pytest.raises(ValueError, match="36 characters"):
        sudoku.from_text("7" * 36)


@pytest.fixture
def made(project):
    project.configure({"datasets": {"boards": {"source": "sudoku", "samples": EASY}}})
    project.run("records-boards")
    return list(read_table(project.root / "data/records/boards"))


def test_records_hold_a_puzzle_its_solution_and_its_class(made):
    assert [sum(record.split == split for record in made) for split in EASY] == list(EASY.values())
    splits: dict[str, set] = {}
    for record in made:
        solution = sudoku.from_text(record.labels["solution"])
        puzzle = sudoku.from_text(record.labels["puzzle"])
        assert record.group == f"class-{sudoku.class_of(solution):02d}"
        assert sudoku.count_solutions(puzzle) == 1 and record.labels["givens"] == (puzzle >= 0).sum()
        splits.setdefault(record.group, set()).add(record.split)
    assert all(len(found) == 1 for found in splits.values())


def test_a_board_depends_on_seed_split_and_number_alone(made):
    classes = classes_by_split(HELD_OUT, 0)
    assert {split: len(found) for split, found in classes.items()} == {"train": 34, "validation": 5, "test": 10}
    assert sorted(number for found in classes.values() for number in found) == list(range(49))
    twenty_third: Record = board(0, "train", 22, classes["train"], None)
    assert twenty_third == made[22]
    assert board(1, "train", 22, classes["train"], None) != twenty_third


def test_classes_must_be_left_for_training(project):
    held_out = {"validation": 20, "test": 29}
    with pytest.raises(ConfigError, match=r"held_out_classes: validation \(20\) \+ test \(29\) leave none"):
        project.configure({"datasets": {"boards": {"source": "sudoku", "held_out_classes": held_out}}})
