"""The encoder `clip_image`."""

from typing import Literal

from glassworks.config.encoder import Encoder


class ClipImage(Encoder):
    """The image tower of CLIP: the class token and the patch tokens of one block."""

    encoder: Literal["clip_image"] = "clip_image"
    """The folder under encoders/."""
    layer: int = -2
    """Block that gives the tokens. Language models usually read -2; -1 is followed by the final norm."""
