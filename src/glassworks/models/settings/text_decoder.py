"""Shape of a text decoder."""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_serializer, model_validator

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count, Dropout, Positive
from glassworks.models.settings.recursive import Recursion

Blocks = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]
"""Numbers of blocks, from 0."""


class RopeScaling(Settings):
    """Rotary positions stretched to a longer context."""

    kind: Literal["linear", "llama3", "yarn"]
    """linear divides every frequency, llama3 the low ones (Llama 3.1), yarn the low ones and scales the result (Peng et al., 2023)."""
    factor: Positive
    """Divides the frequencies."""
    original_max_tokens: Count | None = None
    """Context before stretching (llama3, yarn)."""
    low: Positive = 1.0
    """Rotations in the original context below which a frequency is divided (llama3 low_freq_factor, yarn beta_slow)."""
    high: Positive = 4.0
    """Rotations in the original context above which a frequency is kept (llama3 high_freq_factor, yarn beta_fast)."""
    truncate: bool = True
    """Whether yarn rounds the bounds of its ramp to whole dimensions."""
    attention_factor: Positive = 1.0
    """Multiplies the rotated queries and keys (yarn)."""

    @model_validator(mode="after")
    def _bounded(self) -> "RopeScaling":
        if self.kind != "linear" and self.original_max_tokens is None:
            raise ValueError(f"{self.kind} needs original_max_tokens")
        return self


class Rope(NamedTuple):
    """The frequencies of rotary positions."""

    theta: float
    scaling: RopeScaling | None = None


class View(NamedTuple):
    """The positions that a block attends to, and its rotary positions; None is all positions, and no rotation."""

    window: int | None = None
    rope: Rope | None = None


class TextDecoder(Settings):
    """A text decoder. Its settings select GPT-2, Llama, SmolLM2, SmolLM3, Mistral, Qwen2.5, Qwen3 or Gemma 3."""

    LATER: ClassVar = frozenset(
        {
            "head_size",
            "rope_scaling",
            "unrotated_blocks",
            "window",
            "windowed_blocks",
            "window_rope_theta",
            "head_norms",
            "output_norms",
            "attention_scale",
            "scale_embeddings",
            "recursion",
        }
    )
    """Settings that a saved configuration leaves out at their defaults: older ones lack them."""

    width: Count = 128
    """Model dimension."""
    depth: Count = 3
    """Transformer blocks."""
    heads: Count = 4
    """Attention heads; divides width, unless head_size is set."""
    kv_heads: Count | None = None
    """Key-value heads, shared by groups of query heads; null is `heads`."""
    head_size: Count | None = None
    """Dimensions of a head; null is width / heads."""
    max_tokens: Annotated[int, Field(ge=4)] = 48
    """Longest text in tokens, BOS and EOS included."""
    position: Literal["learned", "rotary"] = "learned"
    """Positions: learned vectors (GPT-2), or rotated queries and keys (Llama, Qwen)."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary angles."""
    rope_scaling: RopeScaling | None = None
    """Stretches rotary positions to a longer context (Llama 3.1, YaRN)."""
    unrotated_blocks: Blocks = ()
    """Blocks without rotary positions (SmolLM3)."""
    window: Count | None = None
    """Latest tokens that a block attends to, itself included (Mistral, Gemma 3); null is all."""
    windowed_blocks: Blocks | None = None
    """Blocks with the window; null is all."""
    window_rope_theta: Positive | None = None
    """Base of the rotary angles in blocks with a window, without scaling (Gemma 3); null is rope_theta with rope_scaling."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalisation: LayerNorm (GPT-2) or RMSNorm (Llama, Qwen)."""
    norm_eps: Positive = 1e-5
    """Added to the variance."""
    head_norms: bool = False
    """Whether every query and key is normalised before its rotation (Qwen3, Gemma 3)."""
    output_norms: bool = False
    """Whether the outputs of attention and feed-forward part are normalised too (Gemma 3)."""
    attention_scale: Positive | None = None
    """Factor of the attention scores; null is head_size ** -0.5."""
    scale_embeddings: bool = False
    """Whether token embeddings are multiplied by the square root of width (Gemma 3)."""
    feed_forward: Literal["gelu", "gelu_tanh", "swiglu", "geglu_tanh"] = "gelu"
    """Non-linearity of the feed-forward part: exact GELU, its tanh approximation (GPT-2), SwiGLU (Llama, Qwen), or gated tanh GELU (Gemma)."""
    feed_forward_width: Count | None = None
    """Inner features of the feed-forward part; null is four times the width."""
    biases: Literal["all", "qkv", "attention", "feed_forward", "none"] = "all"
    """Linear maps with biases, and LayerNorms if there are any: all (GPT-2), queries, keys and values (Qwen2), attention, feed_forward, or none (Llama)."""
    tied: bool = True
    """Whether the output projection shares the weights of the token embedding."""
    dropout: Dropout = 0.0
    """Dropout of the residual branches."""
    recursion: Recursion | None = None
    """Applies the blocks and the norm after them again and again, as the network of a Tiny Recursive Model; null applies them once. For language models
    and the task fusion."""

    @property
    def inner_width(self) -> int:
        """Inner features of the feed-forward part."""
        return self.feed_forward_width or 4 * self.width

    @property
    def size(self) -> int:
        """Dimensions of a head."""
        return self.head_size or self.width // self.heads

    def view(self, block: int) -> View:
        """The positions that a block attends to, and its rotary positions."""
        windowed = self.window is not None and (self.windowed_blocks is None or block in self.windowed_blocks)
        rope = Rope(self.rope_theta, self.rope_scaling)
        if windowed and self.window_rope_theta is not None:
            rope = Rope(self.window_rope_theta)
        rotated = self.position == "rotary" and block not in self.unrotated_blocks
        return View(self.window if windowed else None, rope if rotated else None)

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        defaults = {name: type(self).model_fields[name].default for name in self.LATER}
        return {
            name: value
            for name, value in handler(self).items()
            if name not in self.LATER or getattr(self, name) != defaults[name]
        }

    @model_validator(mode="after")
    def _divides(self) -> "TextDecoder":
        if self.width % self.heads and self.head_size is None:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.position == "rotary" and self.size % 2:
            raise ValueError(f"rotary positions need heads of an even size, not {self.size}")
        for name in ("windowed_blocks", "unrotated_blocks"):
            if beyond := [block for block in getattr(self, name) or () if block >= self.depth]:
                raise ValueError(f"{name} names block {beyond[0]}, and the last is {self.depth - 1}")
        if self.head_norms and self.norm != "rms":
            raise ValueError("head_norms need norm: rms")
        return self
