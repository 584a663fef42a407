"""The encoder `timm_image`."""

from typing import Literal

from glassworks.config.encoder import ImageEncoder
from glassworks.models.settings.numbers import Count, Layers


class TimmImage(ImageEncoder):
    """An image encoder of timm. Tokens are the patches of a ViT, or the positions of a convolutional feature map."""

    encoder: Literal["timm_image"] = "timm_image"
    """The folder under encoders/."""
    image_size: Count = 224
    """Side of the square input in pixels; images are resized to it."""
    layer: int | Layers = -1
    """Feature map that gives the tokens, by timm's index; the features of several, such as [-3, -9], are joined."""
