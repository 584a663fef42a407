"""Settings of the source `scenes`."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.datasets.base import Dataset, Split, Splits


class Scenes(Dataset):
    """Scenes composed from OpenMoji sprites: a pure function of the sprites and a seed, with exact captions and labels."""

    source: Literal["scenes"]
    sprites: str
    """Name of the `openmoji` dataset whose sprites are used (those of its training split)."""
    size: Annotated[int, Field(ge=32, le=1024)] = 72
    """Side of the square canvas in pixels."""
    kinds: Annotated[int, Field(ge=6, le=500)] = 60
    """How many kinds of object appear over the whole dataset."""
    samples: dict[Split, Annotated[int, Field(ge=1)]]
    """Scenes in each split."""
    held_out_pairs: Splits = Splits(validation=0.15, test=0.15)
    """Shares of the pairs of kinds that appear together in validation or test only."""

    def parents(self) -> list[str]:
        return [self.sprites]
