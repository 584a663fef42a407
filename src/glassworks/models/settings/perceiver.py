"""Shape of a Perceiver resampler."""

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count


class Perceiver(Settings):
    """Learned latents that read a sequence of tokens by cross-attention. The defaults are those of OpenFlamingo."""

    latents: Count = 64
    """Number of latents: the tokens that it gives."""
    depth: Count = 6
    """Layers of cross-attention and feed-forward."""
    heads: Count = 8
    """Attention heads."""
    head_width: Count = 64
    """Width of a head."""
    positions: bool = False
    """Add a learned vector to each token, so that attention tells positions apart."""
