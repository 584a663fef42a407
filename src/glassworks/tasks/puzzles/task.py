"""Puzzles: a recursive model fills the empty cells of a board, with deep supervision.

A pass of training is one supervision step. It continues from the states of the pass before, which the engine detaches. All boards take all passes: no board halts
early in training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.rows import Samples
from glassworks.data.sudoku import CELLS, POSITIONS, RELABELLINGS, SIDE, from_text, transform
from glassworks.errors import DataError
from glassworks.models.recursive import Recursive, States, Step, stablemax_cross_entropy
from glassworks.models.settings.recursive import Recursive as Config
from glassworks.tasks.puzzles.settings import BoardTraining, PuzzleOptions
from glassworks.tasks.puzzles.settings import Puzzles as Experiment
from glassworks.training.task import Loss

SYMBOLS = SIDE + 1
"""Symbol 0 is an empty cell, 1 … 6 are the digits."""


@dataclass(frozen=True)
class Example:
    """A puzzle and its solution."""

    key: str
    puzzle: np.ndarray
    """[L] symbols."""
    solution: np.ndarray
    """[L] symbols."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B boards with L cells."""

    keys: list[str]
    puzzles: Tensor
    """[B, L] symbols."""
    solutions: Tensor
    """[B, L] symbols."""


class PuzzlesTask:
    """Puzzles as a `Task[Recursive, Example, Batch, Sample, PuzzleOptions]`."""

    metrics = ("loss", "boards", "cells", "halting_accuracy")
    """Per board after the last supervision step: the cross-entropy of its cells, whether all cells are right, the share of right cells, whether the
    halting head is right about it."""

    def __init__(self, model: Config, training: BoardTraining | None = None) -> None:
        """A task without `training` is for evaluation."""
        self.model = model
        self.training = training or BoardTraining(steps=1)
        self.passes = model.supervision_steps

    def build(self) -> Recursive:
        """The model with random weights from torch's generator."""
        return Recursive(self.model, CELLS, SYMBOLS)

    def save(self, model: Recursive, folder: Path) -> None:
        """Write the model."""
        model.save(folder)

    def arrange(self, dataset: Samples, folder: Path | None = None) -> Samples:
        """The samples themselves."""
        return dataset

    def board(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """The puzzle and the solution of a sample, symbols [L]."""
        puzzle, solution = _board_of(sample)
        return puzzle + 1, solution + 1

    def example(self, row: Sample, part: PuzzleOptions, seed: int) -> Example:
        """The board of a sample, or a symmetric one drawn from `seed`. That of a validation board is the same in every validation."""
        puzzle, solution = _board_of(row)
        if part.augment:
            random = np.random.Generator(np.random.Philox(seed))
            drawn = int(random.integers(len(POSITIONS))), int(random.integers(len(RELABELLINGS)))
            puzzle, solution = transform(puzzle, *drawn), transform(solution, *drawn)
        return Example(row.key, puzzle + 1, solution + 1)

    def collate(self, examples: list[Example]) -> Batch:
        """The examples as one batch."""
        puzzles, solutions = (
            torch.from_numpy(np.stack([getattr(example, name) for example in examples]).astype(np.int64))
            for name in ("puzzle", "solution")
        )
        return Batch([example.key for example in examples], puzzles, solutions)

    def loss(self, model: Recursive, batch: Batch, carry: tuple[Tensor, ...] = ()) -> Loss:
        """The loss of one supervision step, summed over boards: the mean cross-entropy of the cells, and that of the halting logit."""
        step = model(batch.puzzles, _states(carry))
        cells, halting = self._losses(step, batch)
        count = len(batch.keys)
        total = (cells + self.training.halting_weight * halting).sum()
        parts = {"cells": (cells.detach().sum(), float(count)), "halting": (halting.detach().sum(), float(count))}
        return Loss(total, count, parts, step.states)

    def _losses(self, step: Step, batch: Batch) -> tuple[Tensor, Tensor]:
        """float [B] each: the mean cross-entropy of the cells of a board, and the binary cross-entropy of its halting logit."""
        if self.training.cell_loss == "stablemax":
            cells = stablemax_cross_entropy(step.logits, batch.solutions).mean(1)
        else:
            # F.cross_entropy of three dimensions has no deterministic CUDA kernel
            chosen = step.logits.transpose(1, 2).float().log_softmax(1).gather(1, batch.solutions[:, None])
            cells = -chosen[:, 0].mean(1)
        solved = right_cells(step, batch.solutions).all(1)
        halting = F.binary_cross_entropy_with_logits(step.halting, solved.float(), reduction="none")
        return cells, halting

    def validate(self, model: Recursive, batch: Batch) -> dict[str, tuple[float, int]]:
        """The metrics after the last supervision step."""
        states = None
        for _ in range(self.passes):
            step = model(batch.puzzles, states)
            states = step.states
        right, count = right_cells(step, batch.solutions), len(batch.keys)
        solved = right.all(1)
        return {
            "loss": (self._losses(step, batch)[0].sum().item(), count),
            "boards": (int(solved.sum()), count),
            "cells": (right.float().mean(1).cpu().double().sum().item(), count),
            "halting_accuracy": (int(((step.halting > 0) == solved).sum()), count),
        }


def right_cells(step: Step, solutions: Tensor) -> Tensor:
    """bool [B, L]: cells whose most probable symbol is that of `solutions` [B, L]."""
    return step.logits.argmax(-1) == solutions


def _board_of(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The puzzle and the solution [36] of a sample, with -1 in empty cells. Raises `DataError` for a sample without them."""
    labels = sample.json().get("labels", {})
    try:
        puzzle, solution = from_text(labels["puzzle"]), from_text(labels["solution"])
    except (KeyError, TypeError):
        raise DataError(f"{sample.where}: has no puzzle with a solution; use a dataset of the source sudoku") from None
    except ValueError as error:
        raise DataError(f"{sample.where}: {error}") from None
    if (solution < 0).any() or (puzzle != solution)[puzzle >= 0].any():
        raise DataError(f"{sample.where}: its solution has empty cells, or others than its puzzle")
    return puzzle, solution


def _states(carry: tuple[Tensor, ...]) -> States | None:
    return (carry[0], carry[1]) if carry else None


def make(experiment: Experiment, inputs: Mapping[str, Path], fingerprint: dict[str, object]) -> PuzzlesTask:
    """The task of an experiment."""
    return PuzzlesTask(experiment.model, experiment.training)


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[PuzzlesTask, Recursive]:
    """The task of a trained model, and the model in eval mode."""
    model = Recursive.load(inputs["model"]).eval()
    return PuzzlesTask(model.config), model
