"""Shape of a vision-language model, and its trained decoder."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings
from glassworks.config.clips import Clips
from glassworks.config.packing import Frames, Images, TileTokens
from glassworks.config.tiles import Crops, Tiles
from glassworks.models.settings.connector import Connector
from glassworks.models.settings.numbers import Count
from glassworks.models.settings.text_decoder import TextDecoder


class VisionLanguage(Settings):
    """A text decoder that reads the features of a frozen vision tower as tokens: `decoder` or `language_model`."""

    grid: Count = 14
    """Patches of the tower on each side of an image, so that image tokens are counted without opening an image."""
    connector: Connector = Connector()
    """From patches to image tokens."""
    decoder: TextDecoder | None = None
    """A text decoder trained from scratch."""
    language_model: str | None = None
    """Instead of `decoder`: a trained text decoder, from an experiment of the task language_modelling or an entry under `weights` in params.yaml."""
    image_attention: Literal["bidirectional", "causal"] = "bidirectional"
    """Whether the image tokens of a document attend to each other in both directions, or to earlier ones only."""
    similarity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of its query in the new key projection of every block (Trockman and Kolter, 2023, "Mimetic Initialization"). A token of the decoder then attends to
    tokens like it from the first step. For a `decoder` with as many heads of keys as of queries.
    """
    max_tokens: Annotated[int, Field(ge=4)] | None = None
    """Tokens of a row, image tokens included; null uses the decoder's limit."""

    @model_validator(mode="after")
    def _one_decoder(self) -> "VisionLanguage":
        if self.decoder is not None and self.language_model is not None:
            raise ValueError("give either decoder or language_model, not both")
        if self.decoder is not None and self.decoder.recursion:
            raise ValueError("decoder.recursion: only a language model has one; remove it")
        if self.similarity and (self.decoder is None or self.decoder.kv_heads not in (None, self.decoder.heads)):
            raise ValueError("similarity: needs a decoder that has as many kv_heads as heads; remove it")
        self.connector.tokens(self.grid)
        return self

    @property
    def text(self) -> TextDecoder:
        """The shape of the decoder. The shape of a `language_model` is in its own config."""
        return self.decoder or TextDecoder()

    @property
    def row_tokens(self) -> int:
        """Tokens of a row."""
        return self.max_tokens or self.text.max_tokens

    @property
    def image_tokens(self) -> int:
        """Patches of the decoder for each image."""
        return self.connector.tokens(self.grid)

    def images(
        self,
        clips: Clips | None = None,
        tiles: Tiles | None = None,
        side: int | None = None,
        per_row: int | None = None,
    ) -> Images:
        """How images and clips become tokens. `clips` and `tiles` are those of the encoder, `side` is that of a crop in pixels. A row has at most `per_row` images."""
        frames = None if clips is None or self.frame_tokens is None else Frames(clips=clips, tokens=self.frame_tokens)
        window, cut = self.connector.tile_window, None
        if tiles is not None and side is not None and window is not None:
            crops = Crops(most=tiles.most, margin=tiles.margin, side=side, grid=self.grid)
            cut = TileTokens(crops=crops, window=window)
        return Images(tokens=self.image_tokens, per_row=per_row, frames=frames, tiles=cut)

    @property
    def frame_tokens(self) -> int | None:
        """Patches of the decoder for each frame of a clip; None for a model that reads no clips."""
        return self.connector.frame_tokens(self.grid)
