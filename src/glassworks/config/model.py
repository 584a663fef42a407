"""Shapes of the networks."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings

Count = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class VisionTransformer(Settings):
    """A ViT encoder."""

    image_size: Count = 72
    """Side of the square input in pixels; images are resized to it when they differ."""
    patch_size: Count = 8
    """Side of a patch in pixels; divides image_size."""
    stem: Literal["linear", "convolutional"] = "linear"
    """How a patch becomes a token: one linear map (ViT), or three overlapping convolutions, which learn faster from scratch (patch_size a multiple of 4)."""
    width: Count = 128
    """Model dimension."""
    depth: Count = 4
    """Transformer blocks."""
    heads: Count = 4
    """Attention heads; divides width."""
    dropout: Dropout = 0.0
    """Dropout of the residual branches."""

    @model_validator(mode="after")
    def _divides(self) -> "VisionTransformer":
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.stem == "convolutional" and self.patch_size % 4:
            raise ValueError(f"patch_size {self.patch_size} is no multiple of 4, which the convolutional stem needs")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class TextDecoder(Settings):
    """A GPT-style decoder with gated cross-attention to image tokens."""

    width: Count = 128
    """Model dimension."""
    depth: Count = 3
    """Transformer blocks."""
    heads: Count = 4
    """Attention heads; divides width."""
    max_tokens: Annotated[int, Field(ge=4)] = 48
    """Longest caption in tokens, BOS and EOS included."""
    dropout: Dropout = 0.0
    """Dropout of the residual branches."""

    @model_validator(mode="after")
    def _divides(self) -> "TextDecoder":
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class Captioner(Settings):
    """Image encoder and text decoder."""

    encoder: VisionTransformer = VisionTransformer()
    """The image encoder."""
    decoder: TextDecoder = TextDecoder()
    """The text decoder."""
