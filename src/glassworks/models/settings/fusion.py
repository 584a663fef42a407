"""Shape of a decoder that reads the fused features of several modalities."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count, Dropout
from glassworks.models.settings.text_decoder import TextDecoder


class Input(Settings):
    """From the features of a tower to tokens of the width of the decoder."""

    stack: Count = 1
    """Neighbouring feature tokens that are joined to one token, which shortens speech."""
    tokens: Count = 1
    """Tokens that one vector of pooled features becomes (ClipCap, Mokady et al., 2021)."""


class Fusion(Settings):
    """How the decoder reads the tokens of all modalities. The tokens of a missing modality are masked."""

    kind: Literal["concatenation", "cross_attention", "gated"] = "concatenation"
    """`concatenation`: the tokens of all modalities come before the text. `cross_attention`: `queries` learned tokens attend to them and come before
    the text. `gated`: the text attends to them through gated layers, which change nothing at first (Flamingo, Alayrac et al., 2022).
    """
    queries: Count = 16
    """Learned tokens (cross_attention)."""
    heads: Count = 4
    """Attention heads; divides the width of the decoder (cross_attention, gated)."""
    every: Count = 1
    """A gated layer comes before each block whose number this divides, the first one included (gated)."""
    inner_width: Count | None = None
    """Inner features of the feed-forward parts; null is that of the decoder (cross_attention, gated)."""
    dropout: Dropout = 0.0
    """Dropout of the features of the towers."""


class FusedDecoder(Settings):
    """A text decoder that reads the fused features of several towers: `decoder` or `language_model`."""

    fusion: Fusion = Fusion()
    """How the decoder reads the modalities."""
    decoder: TextDecoder | None = None
    """A text decoder trained from scratch."""
    language_model: str | None = None
    """Instead of `decoder`: a trained text decoder, from an experiment of the task language_modelling or an entry under `weights` in params.yaml."""
    max_tokens: Annotated[int, Field(ge=4)] | None = None
    """Longest text in tokens, BOS and EOS included, without the tokens of the modalities; null uses the decoder's limit."""

    @model_validator(mode="after")
    def _one_decoder(self) -> "FusedDecoder":
        if self.decoder is not None and self.language_model is not None:
            raise ValueError("give either decoder or language_model, not both")
        width, heads = self.text.width, self.fusion.heads
        if self.decoder is not None and self.fusion.kind != "concatenation" and width % heads:
            raise ValueError(f"fusion.heads: {heads} does not divide the width {width} of the decoder")
        return self

    @property
    def text(self) -> TextDecoder:
        """The shape of the decoder. The shape of a `language_model` is in its own config."""
        return self.decoder or TextDecoder()

    @property
    def text_tokens(self) -> int:
        """Longest text in tokens, BOS and EOS included."""
        return min(self.max_tokens or self.text.max_tokens, self.text.max_tokens)
