"""Shape of the connector of a vision-language model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count


class Connector(Settings):
    """From the patches of a frozen tower to the image tokens of a decoder."""

    kind: Literal["attention", "linear", "pixel_shuffle"] = "attention"
    """`attention`: each window of patches is pooled by attention, then projected by SwiGLU (Molmo). `linear`: one token for each patch (LLaVA).
    `pixel_shuffle`: the patches of a window are joined, then projected linearly (nanoVLM).
    """
    window: Count = 2
    """Side of a window in patches (attention, pixel_shuffle). At the edges, windows of `attention` may be part empty."""
    video_window: Annotated[Count | None, Field(exclude_if=lambda side: side is None)] = None
    """Side of a window in a frame of a clip (attention), such as 3 in Molmo; null for a model that reads no clips."""
    tile_window: Annotated[Count | None, Field(exclude_if=lambda side: side is None)] = None
    """Side of a window in the crops of an image (attention), such as 2 in Molmo; null for a model that reads whole images only. Their tokens get no learned position."""
    heads: Count = 4
    """Attention heads; divides the width of the tower (attention)."""
    inner_width: Count | None = None
    """Inner features of SwiGLU (attention); null is that of the decoder."""
    initial: Literal["small", "fan_in"] = "small"
    """New weights. `small`: N(0, 0.02) (Molmo). `fan_in`: N(0, 1 / fan-in), for a decoder trained from scratch, which a nearly silent image teaches slowly;
    positions then begin at the scale of the features, with a vector for each row and each column.
    """
    norm: bool = False
    """Whether the features of every patch are normalised first. For towers whose features have another scale than a transformer's."""
    unit_scale: Annotated[bool, Field(exclude_if=lambda scaled: not scaled)] = False
    """Whether every image token is divided by its root mean square before its position is added. Both then keep the same scale in training."""
    positions: bool = False
    """Whether every image token gets a learned position. For towers that hardly encode positions, such as convolutional ones."""

    @model_validator(mode="after")
    def _one_projection(self) -> "Connector":
        for key, side in (("video_window", self.video_window), ("tile_window", self.tile_window)):
            if side is not None and self.kind != "attention":
                raise ValueError(
                    f"{key}: {self.kind} projects windows of one size; use kind: attention, or remove this key"
                )
        return self

    @property
    def side(self) -> int:
        """Side of a window in patches."""
        return 1 if self.kind == "linear" else self.window

    def tokens(self, grid: int) -> int:
        """Image tokens of a square of `grid` by `grid` patches. Raises `ValueError` where pixel_shuffle does not divide it."""
        if self.kind == "pixel_shuffle" and grid % self.window:
            raise ValueError(
                f"connector.window: {self.window} does not divide the {grid} patches of a side, as pixel_shuffle needs; use attention or another window"
            )
        return (-(-grid // self.side)) ** 2

    def frame_tokens(self, grid: int) -> int | None:
        """Image tokens of a frame of a clip; None for a model that reads no clips."""
        return None if self.video_window is None else (-(-grid // self.video_window)) ** 2
