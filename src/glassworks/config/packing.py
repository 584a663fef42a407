"""Settings of the stage `pack`: how texts and messages share rows."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.base import Settings
from glassworks.config.clips import Clips


class Chat(Settings):
    """How conversations become tokens with a loss."""

    template: str | None = None
    """Chat template: a .jinja file, relative to the project. null uses the one that comes with the tokenizer."""
    new_tokens: Annotated[tuple[str, ...], Field(strict=False), Field(exclude_if=lambda tokens: not tokens)] = ()
    """Special tokens of the template that the tokenizer lacks. They get rows of their own, which are trained beside the frozen weights of an adapter."""
    supervise: Literal["all", "last"] = "all"
    """Answers with a loss: all of a conversation, or the last one."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """A conversation that is longer than a row is an error, or is left out and counted. It is never cut, since that removes its answer."""


SPECIAL = ("image_start", "image_patch", "image_end", "frame_start", "frame_patch", "frame_end")
"""Special tokens of a vision-language model. They are no part of the tokenizer: number n has the id -1 - n, and no special token is ever a target."""
IMAGE_START, IMAGE_PATCH, IMAGE_END, FRAME_START, FRAME_PATCH, FRAME_END = (
    -1 - number for number in range(len(SPECIAL))
)


class Frames(Settings):
    """How clips become tokens of a row."""

    clips: Clips
    """The frames that are seen."""
    tokens: Annotated[int, Field(ge=1)]
    """Patch tokens of a frame."""

    @property
    def ids(self) -> list[int]:
        """The tokens of a frame, which follow its time."""
        return [FRAME_START, *[FRAME_PATCH] * self.tokens, FRAME_END]


class Images(Settings):
    """How images and clips become tokens of a row."""

    tokens: Annotated[int, Field(ge=1)]
    """Patch tokens of an image."""
    per_row: Annotated[int, Field(ge=1)] | None = None
    """Most images and frames of clips in a row; None for no limit."""
    frames: Annotated[Frames | None, Field(exclude_if=lambda frames: frames is None)] = None
    """Clips; None refuses them."""

    @property
    def ids(self) -> list[int]:
        """The tokens of an image."""
        return [IMAGE_START, *[IMAGE_PATCH] * self.tokens, IMAGE_END]


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
    images: Annotated[Images | None, Field(exclude_if=lambda images: images is None)] = None
    """Messages with images; None refuses them."""
