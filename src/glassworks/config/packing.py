"""Settings of the stage `pack`: how texts and messages share rows."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.base import Settings


class Chat(Settings):
    """How conversations become tokens with a loss."""

    template: str | None = None
    """Chat template: a .jinja file, relative to the project. null uses the one that comes with the tokenizer."""
    supervise: Literal["all", "last"] = "all"
    """Answers with a loss: all of a conversation, or the last one."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """A conversation that is longer than a row is an error, or is left out and counted. It is never cut, since that removes its answer."""


class Packing(Settings):
    """Everything that the rows depend on beside the samples and the tokenizer."""

    row_tokens: Annotated[int, Field(ge=1)]
    """Most inputs in a row."""
    packing: Literal["documents", "stream"] = "documents"
    """Whole documents with separate attention, or texts as one stream."""
    documents_per_row: Annotated[int, Field(ge=1)] | None = None
    """Most documents in a row; None for no limit."""
    chat: Annotated[Chat | None, Field(exclude_if=lambda chat: chat is None)] = None
    """Conversations rendered by a chat template; None writes the text of each message and EOS."""
