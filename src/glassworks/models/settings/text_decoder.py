"""Shape of a text decoder."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count, Dropout, Positive


class TextDecoder(Settings):
    """A text decoder. Its settings select GPT-2, Llama, SmolLM2 or Qwen2.5."""

    width: Count = 128
    """Model dimension."""
    depth: Count = 3
    """Transformer blocks."""
    heads: Count = 4
    """Attention heads; divides width."""
    kv_heads: Count | None = None
    """Key-value heads, shared by groups of query heads; null is `heads`."""
    max_tokens: Annotated[int, Field(ge=4)] = 48
    """Longest text in tokens, BOS and EOS included."""
    position: Literal["learned", "rotary"] = "learned"
    """Positions: learned vectors (GPT-2), or rotated queries and keys (Llama, Qwen)."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary angles."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalisation: LayerNorm (GPT-2) or RMSNorm (Llama, Qwen)."""
    norm_eps: Positive = 1e-5
    """Added to the variance."""
    feed_forward: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu"
    """Non-linearity of the feed-forward part: exact GELU, its tanh approximation (GPT-2), or SwiGLU (Llama, Qwen)."""
    feed_forward_width: Count | None = None
    """Inner features of the feed-forward part; null is four times the width."""
    biases: Literal["all", "qkv", "none"] = "all"
    """Linear maps and norms with biases: all (GPT-2), only queries, keys and values (Qwen), or none (Llama)."""
    tied: bool = True
    """Whether the output projection shares the weights of the token embedding."""
    dropout: Dropout = 0.0
    """Dropout of the residual branches."""

    @property
    def inner_width(self) -> int:
        """Inner features of the feed-forward part."""
        return self.feed_forward_width or 4 * self.width

    @model_validator(mode="after")
    def _divides(self) -> "TextDecoder":
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.position == "rotary" and self.width // self.heads % 2:
            raise ValueError(f"rotary positions need heads of an even size, not {self.width // self.heads}")
        return self
