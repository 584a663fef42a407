"""Shape of Whisper's encoder."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count, Dropout, Positive


class WhisperEncoder(Settings):
    """The encoder of Whisper: log-mel spectrograms to features. The default shape is tiny's."""

    mels: Count = 80
    """Mel bands of a frame."""
    frames: Annotated[int, Field(ge=2, multiple_of=2)] = 3000
    """Frames of every spectrogram, 10 ms each. Whisper uses 30 s; shorter sounds are padded with silence."""
    width: Count = 384
    """Model dimension."""
    depth: Count = 4
    """Transformer blocks."""
    heads: Count = 6
    """Attention heads; divides width."""
    norm_eps: Positive = 1e-5
    """Added to the variance by LayerNorm."""
    feed_forward: Literal["gelu"] = "gelu"
    """Non-linearity of the feed-forward part."""
    feed_forward_width: Count | None = None
    """Inner features of the feed-forward part; null is four times the width."""
    dropout: Dropout = 0.0
    """Dropout of the residual branches."""

    @property
    def inner_width(self) -> int:
        """Inner features of the feed-forward part."""
        return self.feed_forward_width or 4 * self.width

    @model_validator(mode="after")
    def _divides(self) -> "WhisperEncoder":
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self
