"""Settings of the stage `pack`: how texts and messages share rows."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.base import Settings


class Packing(Settings):
    """Everything that the rows depend on beside the samples and the tokenizer."""

    row_tokens: Annotated[int, Field(ge=1)]
    """Most inputs in a row."""
    packing: Literal["documents", "stream"] = "documents"
    """Whole documents with separate attention, or texts as one stream."""
    documents_per_row: Annotated[int, Field(ge=1)] | None = None
    """Most documents in a row; None for no limit."""
