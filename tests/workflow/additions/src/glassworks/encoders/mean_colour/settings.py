"""The encoder `mean_colour`."""

from typing import Literal

from glassworks.config.encoder import Encoder


class MeanColour(Encoder):
    """The mean colour of an image, projected by published weights."""

    encoder: Literal["mean_colour"] = "mean_colour"
    """The folder under encoders/."""
