"""Attention of encoders and decoders, attention masks, and weight initialisation.

Shapes: B batch, T queries, S keys, C width, H heads, K heads of keys and values, D size of a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.models.feed_forward import FeedForward
from glassworks.models.rotary import Rotation, rotate

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each [B, K, S, D]."""

QKV = ("q_proj", "k_proj", "v_proj")
"""Projections to queries, keys and values, by transformers' names."""


@dataclass(frozen=True)
class Attend:
    """The positions that self-attention attends to. By default every position attends to the whole sequence."""

    mask: Tensor | None = None
    """[B or 1, 1, T, S]: True where a query attends to a key, or a bias added to the scores."""
    causal: bool = False
    """Whether a position attends only to itself and earlier positions. Excludes `mask`."""
    rotation: Rotation | None = None
    """Rotation of queries and keys by position."""
    cache: KeysValues | None = None
    """Keys and values of one block, each [B, K, T_max, D]; attention appends the new positions in place."""
    past: int = 0
    """Positions already in `cache`."""


WHOLE_SEQUENCE = Attend()


class SelfAttention(nn.Module):
    """Multi-head self-attention. With fewer key-value heads than query heads, groups of query heads share them (GQA).

    `size` is that of a head, by default width / heads; `scale` multiplies the scores, by default size ** -0.5. With `norm_eps`, queries and keys are
    normalised before their rotation. `fused_rows` has the rows of each projection in a fused layer, for adapters.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        input_bias: bool = True,
        output_bias: bool = True,
        size: int | None = None,
        scale: float | None = None,
        norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads or heads, size or width // heads
        self.scale = scale
        rows = {name: count * self.size for name, count in zip(QKV, (self.heads, *[self.kv_heads] * 2), strict=True)}
        self.fused_rows = {"qkv": rows}
        self.qkv = nn.Linear(width, sum(rows.values()), bias=input_bias)
        self.out = nn.Linear(self.heads * self.size, width, bias=output_bias)
        self.normed = norm_eps is not None
        if norm_eps is not None:
            self.query_norm, self.key_norm = (nn.RMSNorm(self.size, eps=norm_eps) for _ in range(2))

    def forward(self, x: Tensor, attend: Attend = WHOLE_SEQUENCE) -> Tensor:
        """Attention [B, T, C] of `x` [B, T, C] to itself and to the positions in the cache."""
        batch, length, _ = x.shape
        heads = self.qkv(x).view(batch, length, -1, self.size).transpose(1, 2)  # [B, H + 2 K, T, D]
        if self.normed:
            query, key, value = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
            query, key = self.query_norm(query), self.key_norm(key)
            if attend.rotation is not None:
                query, key = rotate(query, attend.rotation), rotate(key, attend.rotation)
        elif attend.rotation is not None:
            turned, value = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
            query, key = rotate(turned, attend.rotation).split((self.heads, self.kv_heads), dim=1)
        else:
            query, key, value = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        if attend.cache is not None:
            for kept, new in zip(attend.cache, (key, value), strict=True):
                kept.narrow(2, attend.past, length).copy_(new)
            key, value = (kept.narrow(2, 0, attend.past + length) for kept in attend.cache)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attend.mask,
            is_causal=attend.causal,
            scale=self.scale,
            enable_gqa=self.heads != self.kv_heads,
        )  # [B, H, T, D]
        return self.out(mixed.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence to a memory of another width. Keys and values of the memory are computed once."""

    def __init__(self, width: int, heads: int, memory_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(memory_width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """Keys and values of `memory` [B, S, C'], each [B, H, S, D]."""
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        mixed = F.scaled_dot_product_attention(self._split(self.query(x)), *keys_values)  # [B, H, T, D]
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """Attention weights [B, H, T, S] of `x` [B, T, C], each row summing to 1. For plots; `forward` never computes them."""
        query = self._split(self.query(x))
        return (query @ keys_values[0].transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def document_mask(documents: Tensor, branches: Tensor | None = None, mutual: Tensor | None = None) -> Tensor:
    """[B, 1, T, T] from the document of every token [B, T]: causal within a document, and no attention between packed documents.

    `branches` [B, T] numbers the branches of a message tree from 1. A token attends only to its own branch and to the shared context, which has number 0.
    Tokens of one group in `mutual` (`mutual_pairs`) attend to each other in both directions.
    """
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    if mutual is not None:
        causal = causal | mutual_pairs(mutual)
    allowed = (documents[:, :, None] == documents[:, None, :]).logical_and_(causal)
    if branches is not None:
        allowed.logical_and_((branches[:, :, None] == branches[:, None, :]).logical_or_(branches[:, None, :] == 0))
    return allowed[:, None]


def mutual_pairs(mutual: Tensor) -> Tensor:
    """[B, T, T]: whether both tokens of a pair are in one group of `mutual`, int64 [B, T], 0 for tokens in none."""
    return (mutual[:, :, None] == mutual[:, None, :]) & (mutual > 0)[:, None]


def document_positions(documents: Tensor) -> Tensor:
    """[B, T]: the position of every token in its document. `documents` [B, T] has runs of equal numbers."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - (index * begins).cummax(1).values


def initialise(module: nn.Module) -> None:
    """Initialise weights: embeddings N(0, 0.02) as in GPT-2, matrices N(0, 1 / fan-in), biases 0. Use as `model.apply(initialise)`.

    N(0, 1 / fan-in) keeps the variance of a normalised input. GPT-2's fixed 0.02 is far too small for small widths.
    """
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def shrink_residual_outputs(model: nn.Module, branches: int) -> None:
    """Scale the output projections of all residual branches by 1/sqrt(branches), so the residual variance does not grow with depth (GPT-2)."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SelfAttention | CrossAttention | FeedForward):
                module.out.weight /= branches**0.5
