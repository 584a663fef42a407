"""Settings of tiles: the crops of an image that a model sees beside the whole image, and the rule that cuts them (Molmo's `overlap-and-resize-c2`)."""

from fractions import Fraction
from functools import lru_cache
from typing import Annotated, NamedTuple

from pydantic import Field

from glassworks.config.base import Settings


class Tiling(NamedTuple):
    """The crops of an image."""

    rows: int
    columns: int

    @property
    def crops(self) -> int:
        """Their number."""
        return self.rows * self.columns


class Tiles(Settings):
    """The crops of an image that a model sees beside the whole image. They overlap, so that an object at a border is whole in one of them."""

    most: Annotated[int, Field(ge=1)]
    """Most crops of an image."""
    margin: Annotated[int, Field(ge=0)]
    """Patches at each side of a crop that its neighbours have, too. Those between two crops are encoded and then left out."""
    side: Annotated[int | None, Field(ge=1, exclude_if=lambda side: side is None)] = None
    """Pixels of a side of a crop. null is `image_size` of the encoder; an encoder without this key, whose weights have the size, needs it here."""


class Crops(Settings):
    """The crops of an image for one encoder."""

    most: Annotated[int, Field(ge=1)]
    """Most crops of an image."""
    margin: Annotated[int, Field(ge=0)]
    """Patches at each side of a crop that its neighbours have, too."""
    side: Annotated[int, Field(ge=1)]
    """Pixels of a side of a crop, a multiple of `grid`."""
    grid: Annotated[int, Field(ge=1)]
    """Patches of a side of a crop."""

    @property
    def fault(self) -> str | None:
        """Why these crops cannot be cut; None if they can."""
        if self.side % self.grid:
            return f"{self.side} pixels of a crop are not {self.grid} whole patches; choose an image size that is a multiple of {self.grid}"
        if self.step < 1:
            return (
                f"two margins of {self.margin} leave nothing of the {self.grid} patches of a crop; lower tiles.margin"
            )
        return None

    @property
    def patch(self) -> int:
        """Pixels of a side of a patch."""
        return self.side // self.grid

    @property
    def step(self) -> int:
        """Patches between the beginnings of neighbouring crops: those of a crop without its margins."""
        return self.grid - 2 * self.margin

    def tiling(self, width: int, height: int) -> Tiling:
        """The crops of an image of `width` by `height` pixels."""
        margins = 2 * self.margin * self.patch
        return select_tiling(height - margins, width - margins, self.step * self.patch, self.most)

    def patches(self, tiling: Tiling) -> Tiling:
        """Rows and columns of the patches of all crops together, those in margins between crops once."""
        return Tiling(*(count * self.step + 2 * self.margin for count in tiling))


@lru_cache(1 << 14)
def select_tiling(height: int, width: int, window: int, most: int) -> Tiling:
    """Rows and columns, at most `most` in all, of windows of `window` pixels for an image of `height` by `width` pixels without its margins.

    An image that is larger than every tiling gets the one that shrinks it least. Any other image gets the one that enlarges it least. Of equal ones the first
    in the order of their number, then of their rows, counts. A side of no pixels fits every tiling.
    """
    known = sorted(
        (rows * columns, rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)
    )
    tilings = [Tiling(rows, columns) for _, rows, columns in known]

    def scale(tiling: Tiling) -> Fraction:
        sides = [(tiling.rows, height), (tiling.columns, width)]
        return min((Fraction(count * window, size) for count, size in sides if size > 0), default=Fraction(1))

    scales = list(map(scale, tilings))
    large_enough = [number for number, found in enumerate(scales) if found >= 1]
    if not large_enough:
        return tilings[scales.index(max(scales))]
    return tilings[min(large_enough, key=scales.__getitem__)]
