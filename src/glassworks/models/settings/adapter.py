"""Settings of an adapter: a trained update of low rank beside frozen linear layers."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count, Dropout, Positive

ALL = "all-linear"
"""The target for all linear layers of the transformer blocks."""


def _listed(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


class Adapter(Settings):
    """An adapter of linear layers. All other parameters of the model are frozen."""

    kind: Literal["lora", "rslora", "dora", "pissa"] = "lora"
    """LoRA (Hu et al., 2021); rsLoRA, which scales by the square root of the rank (Kalajdzievski, 2023); DoRA, which also trains the norm of every
    row of the weight (Liu et al., 2024); or PiSSA, which trains the largest principal components of the weight (Meng et al., 2024).
    """
    rank: Count = 16
    """Rank of the update."""
    alpha: Positive = 16.0
    """The update is scaled by alpha / rank, for rsLoRA by alpha / sqrt(rank)."""
    dropout: Dropout = 0.0
    """Dropout of the input of the update."""
    targets: (
        Annotated[tuple[str, ...], Field(strict=False, min_length=1), BeforeValidator(_listed, str | list[str])] | None
    ) = None
    """Names of linear layers or of their projections: patterns such as `*.attention.qkv`, or short names such as `q_proj`. `all-linear` or null is all
    linear layers of the transformer blocks.
    """

    @property
    def scale(self) -> float:
        """Factor of the update."""
        return self.alpha / (math.sqrt(self.rank) if self.kind == "rslora" else self.rank)
