"""The encoder `clip_image`."""

from typing import Literal

from glassworks.config.encoder import ImageEncoder
from glassworks.models.settings.numbers import Layers


class ClipImage(ImageEncoder):
    """The image tower of CLIP: the class token and the patch tokens of one or several blocks."""

    encoder: Literal["clip_image"] = "clip_image"
    """The folder under encoders/."""
    layer: int | Layers = -2
    """Block that gives the tokens. Language models usually read -2; -1 is followed by the final norm. The features of several, such as [-3, -10] as in
    Molmo, are joined, without the final norm.
    """
