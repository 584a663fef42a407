"""Settings of the source `scenes`."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.datasets import Credit, Dataset, Split, Splits
from glassworks.config.needs import Records

CREDIT = Credit(
    title="Scenes composed from OpenMoji drawings",
    licence="CC BY-SA 4.0 (creativecommons.org/licenses/by-sa/4.0)",
    credit="All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0",
    derivation="Every scene places drawings of the data set {sprites} on a ground of one colour and texture, by a "
    "seed; captions and labels say what was placed where, so they are exact. The scenes are adaptations "
    "of the drawings and stand under the same licence.",
)


class Scenes(Dataset):
    """Scenes composed from OpenMoji sprites: a pure function of the sprites and a seed, with exact captions and labels."""

    source: Literal["scenes"]
    sprites: str
    """Name of the `openmoji` dataset whose sprites are used (those of its training split)."""
    size: Annotated[int, Field(ge=32, le=1024)] = 72
    """Side of the square canvas in pixels."""
    kinds: Annotated[int, Field(ge=6, le=500)] = 60
    """Number of kinds of object in the whole data set."""
    samples: dict[Split, Annotated[int, Field(ge=1)]]
    """Scenes in each split."""
    held_out_pairs: Splits = Splits(validation=0.15, test=0.15)
    """Shares of the pairs of kinds that appear together in validation or test only."""

    def needs(self) -> dict[str, Records]:
        return {"sprites": Records("sprites", self.sprites, source="openmoji")}
