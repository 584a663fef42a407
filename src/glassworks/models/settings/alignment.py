"""Shape of the heads that align the features of several encoders."""

from typing import Literal

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count, Dropout, Positive


class Alignment(Settings):
    """One trained head for each frozen encoder, all with the same output space."""

    width: Count = 128
    """Dimension of the shared space."""
    head: Literal["linear", "mlp"] = "mlp"
    """`linear`: one linear map. `mlp`: a linear map followed by a residual block of two layers."""
    dropout: Dropout = 0.0
    """Dropout of the features that a head reads, and inside the residual block."""
    temperature: Positive = 0.07
    """Initial temperature of the similarities. It is learned."""
    smallest_temperature: Positive = 0.01
    """Lower limit of the temperature; the upper limit is 1."""
