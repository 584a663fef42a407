"""Fusion of the features of several modalities for a text decoder: as tokens before the text, or through gated cross-attention.

A sample may lack modalities: their tokens are masked, and no text ever attends to them. A sample without any has no tokens, so the decoder computes its
language model. Every function of a mask gives finite numbers, also where all of it is False.

Shapes: B samples, T feature tokens of a modality, C features of its tower, M tokens of all modalities, D width of the decoder, Q learned queries, H heads.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.errors import ConfigError
from glassworks.models.attention import CrossAttention, KeysValues
from glassworks.models.feed_forward import FeedForward
from glassworks.models.settings.fusion import Fusion as Config
from glassworks.models.settings.fusion import Input

FEATURES, MASK, PRESENT = "features", "mask", "present"
"""Tensors of a modality: features [B, C] or [B, T, C], the mask of its tokens [B, T], and whether a sample has it [B]."""
Modality = Mapping[str, Tensor]


class Tokens(NamedTuple):
    """Tokens of several modalities."""

    values: Tensor
    """[B, M, D]."""
    mask: Tensor
    """bool [B, M]: True at real tokens."""


def token_mask(modality: Modality, shape: Input) -> Tensor:
    """bool [B, M]: the real tokens that the features of a modality become. A token of stacked features is real if one of them is."""
    features, present = modality[FEATURES], modality[PRESENT]
    if features.dim() == 2:
        return present[:, None].expand(-1, shape.tokens)
    mask = modality[MASK] & present[:, None]
    return _stacked(mask[..., None], shape.stack).any(-1)


def prefix_mask(config: Config, masks: Mapping[str, Tensor]) -> Tensor:
    """bool [B, P]: the real tokens before each text, from the masks of all modalities, bool [B, M] each."""
    joined = torch.cat(list(masks.values()), 1)
    if config.kind == "concatenation":
        return joined
    return joined.any(1, keepdim=True).expand(-1, config.queries if config.kind == "cross_attention" else 0)


def _stacked(values: Tensor, count: int) -> Tensor:
    """[B, T, C] to [B, ceil(T / count), count C]; the end is padded with zeros."""
    missing = -values.shape[1] % count
    return F.pad(values, (0, 0, 0, missing)).unflatten(1, (-1, count)).flatten(2)


class Projection(nn.Module):
    """The features of a modality as tokens of the decoder: layer norm, linear map, and the embedding of the modality."""

    def __init__(self, width: int, out: int, shape: Input, dropout: float) -> None:
        super().__init__()
        self.shape, self.out, self.dropout = shape, out, dropout
        self.norm = nn.LayerNorm(width)
        self.map = nn.Linear(width * shape.stack, out * shape.tokens)
        self.modality = nn.Parameter(torch.zeros(out))

    def forward(self, modality: Modality) -> Tokens:
        """Features [B, C] or [B, T, C] to tokens; those that the mask hides are zero."""
        mask = token_mask(modality, self.shape)
        features = self.norm(modality[FEATURES].to(self.map.weight.dtype))
        if self.training and self.dropout:
            features = F.dropout(features, self.dropout)
        if features.dim() == 2:
            values = self.map(features).unflatten(1, (self.shape.tokens, self.out))
        else:
            real = modality[MASK][..., None].to(features.dtype)
            values = self.map(_stacked(features * real, self.shape.stack))
        values = values + self.modality.to(values.dtype)
        return Tokens(values.masked_fill(~mask[..., None], 0.0), mask)


class MaskedCrossAttention(CrossAttention):
    """Cross-attention to the real tokens of a memory; zero for a sample without any."""

    def masked(self, x: Tensor, keys_values: KeysValues, mask: Tensor) -> Tensor:
        """`x` [B, N, D], keys and values [B, H, M, D / H] and their `mask` [B, M] to [B, N, D]."""
        some = mask.any(1)
        seen = mask | ~some[:, None]  # a softmax over nothing is NaN
        query = self._split(self.query(x))
        mixed = F.scaled_dot_product_attention(query, *keys_values, attn_mask=seen[:, None, None])  # [B, H, N, D / H]
        found = self.out(mixed.transpose(1, 2).flatten(2))
        return found.masked_fill(~some[:, None, None], 0.0)


class LearnedQueries(nn.Module):
    """Learned queries that attend to the tokens of all modalities: x = q + attention(norm q, norm tokens), then x + feed-forward(norm x)."""

    def __init__(self, config: Config, width: int, inner: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        self.query_norm, self.token_norm, self.forward_norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention = MaskedCrossAttention(width, config.heads, width)
        self.feed_forward = FeedForward(width, config.inner_width or inner, "gelu")
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens [B, M, D] to [B, Q, D], which are real where a sample has a token."""
        x = self.queries.expand(len(tokens.mask), -1, -1)
        keys_values = self.attention.keys_values(self.token_norm(tokens.values))
        x = x + self.attention.masked(self.query_norm(x), keys_values, tokens.mask)
        x = x + self.feed_forward(self.forward_norm(x))
        return Tokens(x, tokens.mask.any(1, keepdim=True).expand(-1, x.shape[1]))


class GatedLayer(nn.Module):
    """Gated cross-attention before a block: x + tanh(a) attention(norm x, memory), then x + tanh(b) feed-forward(norm x); a = b = 0 at first.

    A sample without any token keeps x. Source: Flamingo, Alayrac et al., 2022, figure 4.
    """

    def __init__(self, config: Config, width: int, inner: int) -> None:
        super().__init__()
        self.attention_norm, self.memory_norm, self.forward_norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention = MaskedCrossAttention(width, config.heads, width)
        self.feed_forward = FeedForward(width, config.inner_width or inner, "gelu")
        self.attention_gate, self.forward_gate = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def memory(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of the tokens, each [B, H, M, D / H], and their mask [B, M]. Compute them once for each text."""
        return *self.attention.keys_values(self.memory_norm(tokens.values)), tokens.mask

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Features [B, N, D] to features [B, N, D] in their dtype."""
        key, value, mask = memory
        attended = self.attention.masked(self.attention_norm(x), (key, value), mask)
        x = x + (torch.tanh(self.attention_gate) * attended).to(x.dtype)
        added = self.feed_forward(self.forward_norm(x)).masked_fill(~mask.any(1)[:, None, None], 0.0)
        return x + (torch.tanh(self.forward_gate) * added).to(x.dtype)


class Fusion(nn.Module):
    """The features of all modalities as tokens, and what joins them: nothing (concatenation), learned queries, or the gated layers of the decoder."""

    def __init__(self, config: Config, inputs: Mapping[str, tuple[int, Input]], width: int, inner: int) -> None:
        """`inputs` has the width of the features of each modality and its shape. Raises `ConfigError` for heads that do not divide `width`."""
        super().__init__()
        if config.kind != "concatenation" and width % config.heads:
            raise ConfigError(f"model.fusion.heads: {config.heads} does not divide the width {width} of the decoder")
        self.config = config
        self.projections = nn.ModuleDict(
            {name: Projection(own, width, shape, config.dropout) for name, (own, shape) in inputs.items()}
        )
        self.queries = LearnedQueries(config, width, inner) if config.kind == "cross_attention" else None

    def forward(self, features: Mapping[str, Modality]) -> Tokens:
        """The joined tokens of all modalities: those before the text, or those that gated layers read."""
        found = [projection(features[name]) for name, projection in self.projections.items()]
        tokens = Tokens(torch.cat([one.values for one in found], 1), torch.cat([one.mask for one in found], 1))
        return tokens if self.queries is None else self.queries(tokens)
