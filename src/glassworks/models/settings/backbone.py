"""Settings of a timm backbone and its initial weights."""

from typing import Annotated, Any

from pydantic import Field, model_serializer

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
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of timm's `create_model` that change the network. Those in the configuration of the weights are added."""

    @model_serializer(mode="wrap")
    def _without_no_arguments(self, handler: Any) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name != "arguments" or value}
