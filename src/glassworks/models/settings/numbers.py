"""Number types of the shapes."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
