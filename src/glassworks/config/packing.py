"""Settings of the stage `pack`: how texts and messages share rows."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.base import Settings
from glassworks.config.clips import Clips
from glassworks.config.tiles import Crops, Tiling


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


OF_IMAGES = ("image_start", "image_patch", "image_end")
OF_FRAMES = ("frame_start", "frame_patch", "frame_end")
OF_TILES = ("tiles_start", "tile_patch", "tile_column", "tiles_end")
"""A column ends every row of the tiles of an image."""
SPECIAL = (*OF_IMAGES, *OF_FRAMES, *OF_TILES)
"""Special tokens of a vision-language model. They are no part of the tokenizer: number n has the id -1 - n, and no special token is ever a target."""
(
    IMAGE_START,
    IMAGE_PATCH,
    IMAGE_END,
    FRAME_START,
    FRAME_PATCH,
    FRAME_END,
    TILES_START,
    TILE_PATCH,
    TILE_COLUMN,
    TILES_END,
) = (-1 - number for number in range(len(SPECIAL)))


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


class TileTokens(Settings):
    """How the crops of an image become tokens of a row."""

    crops: Crops
    """The crops that are seen."""
    window: Annotated[int, Field(ge=1)]
    """Side in patches of a window that becomes one token. Windows may reach over the border of two crops."""

    def tokens(self, tiling: Tiling) -> Tiling:
        """Rows and columns of the tokens of all crops together."""
        return Tiling(*(-(-patches // self.window) for patches in self.crops.patches(tiling)))

    def ids(self, tiling: Tiling) -> list[int]:
        """The tokens of the crops, which follow those of the whole image."""
        rows, columns = self.tokens(tiling)
        return [TILES_START, *[*[TILE_PATCH] * columns, TILE_COLUMN] * rows, TILES_END]

    def tiling(self, rows: int, columns: int) -> Tiling | None:
        """The crops that have these rows and columns of tokens; None if no crops have them."""
        most, per_side = self.crops.most, {}
        for count in range(1, most + 1):
            per_side[self.tokens(Tiling(count, count)).rows] = count
        found = Tiling(per_side.get(rows, 0), per_side.get(columns, 0))
        return found if 0 < found.crops <= most else None


class Images(Settings):
    """How images and clips become tokens of a row."""

    tokens: Annotated[int, Field(ge=1)]
    """Patch tokens of an image."""
    per_row: Annotated[int, Field(ge=1)] | None = None
    """Most images, crops of images and frames of clips in a row; None for no limit."""
    frames: Annotated[Frames | None, Field(exclude_if=lambda frames: frames is None)] = None
    """Clips; None refuses them."""
    tiles: Annotated[TileTokens | None, Field(exclude_if=lambda tiles: tiles is None)] = None
    """The crops of every image; None for whole images only."""

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
