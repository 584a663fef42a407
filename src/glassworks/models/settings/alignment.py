"""Shape of the heads that align the features of several encoders."""

from itertools import combinations
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Name, Settings
from glassworks.models.settings.numbers import Count, Dropout, Positive
from glassworks.models.settings.perceiver import Perceiver

Head = Literal["linear", "mlp", "perceiver"]


class Alignment(Settings):
    """One trained head for each frozen encoder, all with the same output space."""

    LATER: ClassVar = frozenset({"perceiver", "structure"})
    """Keys that models of earlier versions lack."""

    width: Count = 128
    """Dimension of the shared space."""
    head: Head = "mlp"
    """`linear`: one linear map. `mlp`: a linear map followed by a residual block of two layers. `perceiver`: a resampler that reads the tokens of an encoder
    with `pooling: none`, and a linear map of the mean of its latents.
    """
    perceiver: Annotated[Perceiver | None, Field(exclude_if=lambda shape: shape is None)] = None
    """Shape of the heads that are a perceiver; null is the default one."""
    dropout: Dropout = 0.0
    """Dropout of the features that a head reads, and inside the residual block or before the linear map of a perceiver."""
    pairs: list[Annotated[list[Name], Field(min_length=2, max_length=2)]] = Field(default=[])
    """Pairs of towers that the loss brings together; empty is every pair. Text as the hub: [[image, text], [audio, text]]."""
    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    """`info_nce`: choose the partner among the batch (CLIP). `sigmoid`: decide for every combination whether it is a pair (SigLIP)."""
    equal: Name | None = None
    """A tower, such as text: samples with equal features of it are not negatives of each other."""
    widths: list[Count] = Field(default=[])
    """Widths of Matryoshka embeddings, from `width` downwards: each prefix of the vectors is normalised again and has a loss of its own. Empty is `width` alone."""
    width_weights: list[Positive] = Field(default=[])
    """Weight of the loss at each of `widths`; empty is 1 for all."""
    structure: Annotated[float, Field(ge=0, allow_inf_nan=False, exclude_if=lambda weight: weight == 0)] = 0.0
    """Weight of a further loss: in every modality, samples keep the neighbours that they have by the features of the encoder (STRUCTURE). Published: 10."""
    temperature: Positive | None = None
    """Initial temperature of the similarities, which is learned; null is 0.07 for `info_nce` and 0.1 for `sigmoid`."""
    smallest_temperature: Positive = 0.01
    """Lower limit of the temperature; the upper limit is 1."""
    bias: Annotated[float, Field(allow_inf_nan=False)] = -10.0
    """Initial bias of the sigmoid loss, which is learned."""

    @property
    def prefixes(self) -> dict[int, float]:
        """The weight of the loss at each width, from the full one downwards."""
        widths = self.widths or [self.width]
        return dict(zip(widths, self.width_weights or [1.0] * len(widths), strict=True))

    def pairs_of(self, towers: list[str]) -> list[tuple[str, str]]:
        """The trained pairs of these towers."""
        return [(one, other) for one, other in self.pairs] or list(combinations(towers, 2))

    @model_validator(mode="after")
    def _widths_fit(self) -> "Alignment":
        if self.widths and (self.widths[0] != self.width or sorted({*self.widths}, reverse=True) != self.widths):
            raise ValueError(
                f"widths: write them from width ({self.width}) downwards, each once; there are {self.widths}"
            )
        if self.width_weights and len(self.width_weights) != len(self.widths):
            raise ValueError(f"width_weights: there are {len(self.width_weights)} for {len(self.widths)} widths")
        return self
