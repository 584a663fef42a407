"""Shape of a Vision Transformer."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count, Dropout, Positive

Colour = Annotated[tuple[float, float, float], Field(strict=False)]


class VisionTransformer(Settings):
    """A ViT encoder."""

    image_size: Count = 72
    """Side of the square input in pixels. Other images are resized to it."""
    patch_size: Count = 8
    """Side of a patch in pixels; divides image_size."""
    stem: Literal["linear", "convolutional"] = "linear"
    """Map from a patch to a token: linear (ViT), or three overlapping convolutions, which learn faster from scratch (patch_size a multiple of 4)."""
    width: Count = 128
    """Model dimension."""
    depth: Count = 4
    """Transformer blocks."""
    heads: Count = 4
    """Attention heads; divides width."""
    dropout: Dropout = 0.0
    """Dropout of the residual branches."""
    class_token: bool = False
    """Whether a learned token precedes the patch tokens (ViT, CLIP)."""
    first_norm: bool = False
    """Whether the tokens are normalised before the first block (CLIP)."""
    patch_bias: bool = True
    """Whether the linear stem has a bias (CLIP's has none)."""
    norm_eps: Positive = 1e-5
    """Added to the variance by LayerNorm (1e-6 in timm's ViT)."""
    feed_forward: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    """Non-linearity of the feed-forward part (quick_gelu in CLIP)."""
    feed_forward_width: Count | None = None
    """Inner features of the feed-forward part; null is four times the width."""
    mean: Colour = (0.5, 0.5, 0.5)
    """Mean of red, green and blue (0 to 1), subtracted before the stem."""
    std: Colour = (0.5, 0.5, 0.5)
    """Standard deviation of red, green and blue, by which the difference is divided."""

    @property
    def inner_width(self) -> int:
        """Inner features of the feed-forward part."""
        return self.feed_forward_width or 4 * self.width

    @model_validator(mode="after")
    def _divides(self) -> "VisionTransformer":
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.stem == "convolutional" and self.patch_size % 4:
            raise ValueError(f"patch_size {self.patch_size} is no multiple of 4, which the convolutional stem needs")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self
