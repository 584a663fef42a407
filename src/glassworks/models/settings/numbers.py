"""Number types of the shapes."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Layers = Annotated[tuple[int, ...], Field(strict=False, min_length=1)]
"""Layers of a network by index, negative ones from the end."""
