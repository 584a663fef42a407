"""experiments/NAME.yaml of the task `puzzles`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from glassworks.config.data import Data, Options
from glassworks.config.experiment import Experiment
from glassworks.config.training import Training
from glassworks.models.settings.recursive import Recursive


class PuzzleOptions(Options):
    """Options of the task for one dataset."""

    augment: bool = True
    """Draw a symmetric board in place of each board, by renaming digits and permuting rows, columns, bands and stacks. The symmetry class stays. Evaluations
    never do it."""


class BoardTraining(Training):
    """Steps, global batch, precision, reduction, validation and selection, and the loss."""

    cell_loss: Literal["softmax", "stablemax"] = "softmax"
    """Cross-entropy of the cells. `stablemax` is the published one, in float64."""
    halting_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    """Weight of the binary cross-entropy of the halting head, which predicts whether every cell is correct."""


class Puzzles(Experiment):
    """A recursive model that solves puzzles on boards."""

    validated: ClassVar[tuple[str, ...]] = ("boards", "cells", "loss", "halting_accuracy")
    scored_by: ClassVar[str | None] = "boards"

    task: Literal["puzzles"]
    """The objective."""
    data: Data[PuzzleOptions]
    """Training and evaluation data: datasets of the source `sudoku`."""
    model: Recursive = Recursive()
    """The network and its recursions."""
    training: BoardTraining
    """Steps, global batch, precision, validation, selection of the weights and the loss."""
