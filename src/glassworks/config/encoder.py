"""Settings common to all frozen encoders."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Name, Settings
from glassworks.config.clips import Clips
from glassworks.config.needs import Need, Weights
from glassworks.config.tiles import Tiles


class Encoder(Settings):
    """A frozen encoder with published weights. Each folder under encoders/ defines one subclass."""

    encoder: str
    """Encoder: the name of a folder under encoders/."""
    weights: Name
    """An entry under `weights` in params.yaml."""
    pooling: Literal["mean", "none"] = "mean"
    """`mean`: one vector per sample, the mean of its tokens without masked ones. `none`: all tokens and their mask."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the features. The encoder computes in float32; the result is rounded."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Samples that are encoded at a time; a smaller rest is padded. So the features of a sample do not depend on other samples."""
    jobs: Annotated[int, Field(ge=1, le=10_000)] = 2
    """Parallel jobs that compute the features of a dataset. Does not affect their bytes."""

    @property
    def gives_tokens(self) -> bool:
        """Whether the features of a sample are tokens with a mask, and not one vector or one of several."""
        return self.pooling == "none"

    def needs(self, key: str) -> dict[str, Need]:
        """Input artefacts of a stage that runs the encoder, by role. `key` is the key path of these settings."""
        return {f"{key}.weights": Weights(f"{key}.weights", self.weights)}


class ImageEncoder(Encoder):
    """A frozen encoder of images, which encodes the frames of a clip as images."""

    clips: Annotated[Clips | None, Field(exclude_if=lambda clips: clips is None)] = None
    """Frames of a clip to encode, such as `{frames: 8, rate: 4}`; null reads no clips. For `pooling: none`."""
    tiles: Annotated[Tiles | None, Field(exclude_if=lambda tiles: tiles is None)] = None
    """Crops of an image to encode beside the whole image, such as `{most: 8, margin: 4}`; null cuts none. For `pooling: none`."""

    @model_validator(mode="after")
    def _tokens_of_frames(self) -> "ImageEncoder":
        if self.clips is not None and self.pooling != "none":
            raise ValueError("clips: the features of frames are tokens; set pooling: none, or remove this key")
        if self.tiles is not None and self.pooling != "none":
            raise ValueError("tiles: the features of crops are tokens; set pooling: none, or remove this key")
        if self.tiles is not None and self.crop_side is None:
            raise ValueError("tiles.side: the weights of this encoder have its image size; write it here, such as 336")
        return self

    @property
    def crop_side(self) -> int | None:
        """Pixels of a side of a crop; None where these settings do not say it."""
        side: int | None = getattr(self, "image_size", None)
        return self.tiles.side if self.tiles is not None and self.tiles.side is not None else side
