"""Settings of the source `colours`."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.datasets import Credit, Dataset, Split

CREDIT = Credit(
    title="Images of one colour",
    licence="CC0",
    credit="Nobody",
    derivation="Images of {size} pixels a side, drawn from a seed.",
)


class Colours(Dataset):
    """Images of one colour each, with its name as caption and label."""

    source: Literal["colours"]
    size: Annotated[int, Field(ge=4)] = 16
    """Side of the images in pixels."""
    samples: dict[Split, Annotated[int, Field(ge=1)]]
    """Images in each split."""
