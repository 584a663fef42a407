"""Settings of the source `sudoku`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings
from glassworks.config.datasets import Credit, Dataset, Split

CREDIT = Credit(
    title="Sudoku puzzles on 6x6 boards",
    licence="None needed: every board is computed from a seed",
    credit="",
    derivation="Every puzzle has one solution. Grids that are the same but for symmetry are in one split.",
)
CLASSES = 49
"""Symmetry classes of the 28,200,960 grids."""


class HeldOut(Settings):
    """Numbers of symmetry classes whose grids appear in a held-out split only."""

    validation: Annotated[int, Field(ge=1)] = 5
    """Classes of the validation split."""
    test: Annotated[int, Field(ge=1)] = 10
    """Classes of the test split."""

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> "HeldOut":
        if self.validation + self.test >= CLASSES:
            raise ValueError(
                f"validation ({self.validation}) + test ({self.test}) leave none of the {CLASSES} classes for training"
            )
        return self


class Sudoku(Dataset):
    """Sudoku puzzles on 6x6 boards with boxes of 2 rows and 3 columns, a pure function of the seed. Whole symmetry classes are held out."""

    source: Literal["sudoku"]
    samples: dict[Split, Annotated[int, Field(ge=1)]] = Field(default={"train": 2000, "validation": 200, "test": 400})
    """Boards in each split. Board number i of a split does not depend on them."""
    held_out_classes: HeldOut = HeldOut()
    """Symmetry classes in validation and test. The other ones of the 49 are for training."""
    givens: Annotated[int, Field(ge=8, le=35)] | None = None
    """Least number of filled cells. null keeps minimal puzzles, in which no given can be left out: about 10 givens."""
