"""Multi-head attention for encoders, decoders and cross-attention, with keys and values that can be kept.

Shapes: B batch, T queries, S keys, C width, H heads, D = C / H.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Attention from `x` to itself, or to `memory` of width `memory_width`."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(memory_width or width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `memory` [B, S, C'], each [B, H, S, D]."""
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], causal: bool = False, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from `x` [B, T, C] to keys and values [B, H, S, D]; `mask` [T, S] is True where attention is allowed."""
        key, value = keys_values
        mixed = F.scaled_dot_product_attention(
            self._split(self.query(x)), key, value, attn_mask=mask, is_causal=causal
        )  # [B, H, T, D]
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear maps with a GELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.inner(x)))


def initialise(module: nn.Module) -> None:
    """Initial weights: embeddings N(0, 0.02) as in GPT-2; matrices N(0, 1 / fan-in), which keeps the variance of a normalised input (at the small widths
    trained here GPT-2's fixed 0.02 starts far too small); biases 0. Use as `model.apply(initialise)`."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        nn.init.zeros_(module.bias)


def shrink_residual_outputs(model: nn.Module, branches: int) -> None:
    """Scale the output projections of all residual branches by 1/sqrt(branches), so that the stream keeps its variance with depth (GPT-2)."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Attention | FeedForward):
                module.out.weight /= branches**0.5
