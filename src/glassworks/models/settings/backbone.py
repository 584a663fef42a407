"""A backbone of timm and the weights it starts from."""

from typing import Annotated

from pydantic import Field

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count


class Backbone(Settings):
    """An image encoder of timm, by name."""

    name: str
    """A model of timm, such as vit_base_patch16_224 or tf_efficientnet_lite0."""
    weights: str | None = None
    """An entry under `weights` in params.yaml, for the network to begin with; null begins with random weights."""
    image_size: Count = 224
    """Side of the square input in pixels; images are resized to it when they differ."""
    layers: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = (-1,)
    """Which of the backbone's feature maps give tokens, counted as timm counts them (blocks of a ViT, stages of a convolutional network)."""
