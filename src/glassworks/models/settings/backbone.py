"""Settings of a timm backbone and its initial weights."""

from typing import Annotated

from pydantic import Field

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count


class Backbone(Settings):
    """An image encoder of timm, by name."""

    name: str
    """A timm model, such as vit_base_patch16_224 or tf_efficientnet_lite0."""
    weights: str | None = None
    """Initial weights: an entry under `weights` in params.yaml; null is random."""
    image_size: Count = 224
    """Side of the square input in pixels. Other images are resized to it."""
    layers: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (-1,)
    """Feature maps that give the tokens, by timm's index (blocks of a ViT, stages of a convolutional network)."""
