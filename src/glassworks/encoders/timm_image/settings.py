"""The encoder `timm_image`."""

from typing import Literal

from glassworks.config.encoder import Encoder
from glassworks.models.settings.numbers import Count


class TimmImage(Encoder):
    """An image encoder of timm: patch tokens of a ViT, or the places of a convolutional network's feature map."""

    kind: Literal["timm_image"] = "timm_image"
    """The folder under encoders/."""
    image_size: Count = 224
    """Side of the square input in pixels; images are resized to it."""
    layer: int = -1
    """Feature map that gives the tokens, as timm counts them."""
