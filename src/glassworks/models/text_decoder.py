"""A GPT-style text decoder with gated cross-attention to image tokens.

Image keys and values are computed once per image (`Memory`), text keys and values are kept while decoding (`Cache`), so a new token costs one token's work.
Shapes: B batch, T text tokens, N image tokens, C width, H heads, D = C / H, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.config.model import TextDecoder as Config
from glassworks.models.attention import Attention, FeedForward

KeysValues = tuple[Tensor, Tensor]
Memory = list[KeysValues]
"""For each block the keys and values [B, H, N, D] of the image tokens."""


@dataclass
class Cache:
    """Keys and values of the text so far: for each block two tensors [B, H, T_max, D], of which `length` positions are filled."""

    keys_values: list[KeysValues]
    length: int = 0

    def reorder(self, rows: Tensor) -> None:
        """Keep the given rows of the batch, in that order (beam search)."""
        self.keys_values = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in self.keys_values]


class DecoderBlock(nn.Module):
    """Causal self-attention, gated cross-attention to the image, feed-forward; pre-norm.

    The gate (Flamingo, Alayrac et al., 2022) is tanh of a learned number: at 0 the block is that of a language model that sees no image.
    """

    def __init__(self, config: Config, memory_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.cross_norm = nn.LayerNorm(config.width)
        self.cross_attention = Attention(config.width, config.heads, memory_width)
        self.gate = nn.Parameter(torch.ones(1))
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width)
        self.dropout = config.dropout

    def forward(self, x: Tensor, memory: KeysValues, cache: KeysValues | None = None, past: int = 0) -> Tensor:
        """`x` [B, T, C] follows `past` tokens whose keys and values are in `cache`, which is filled in place."""
        y = self.attention_norm(x)
        keys_values = self.attention.keys_values(y)
        if cache is None:
            mixed = self.attention(y, keys_values, causal=True)
        else:
            end = past + x.shape[1]
            for kept, new in zip(cache, keys_values, strict=True):
                kept[:, :, past:end] = new
            allowed = torch.ones(x.shape[1], end, dtype=torch.bool, device=x.device).tril(past)
            mixed = self.attention(y, (cache[0][:, :, :end], cache[1][:, :, :end]), mask=allowed)
        x = x + F.dropout(mixed, self.dropout, self.training)
        seen = self.cross_attention(self.cross_norm(x), memory)
        x = x + torch.tanh(self.gate) * F.dropout(seen, self.dropout, self.training)
        return x + F.dropout(self.feed_forward(self.feed_forward_norm(x)), self.dropout, self.training)


class TextDecoder(nn.Module):
    """Token ids [B, T] and image memory to logits [B, T, V]. Input and output embeddings are one matrix."""

    def __init__(self, config: Config, vocabulary: int, memory_width: int) -> None:
        super().__init__()
        self.max_tokens = config.max_tokens
        self.tokens = nn.Embedding(vocabulary, config.width)
        self.positions = nn.Embedding(config.max_tokens, config.width)
        self.blocks = nn.ModuleList(DecoderBlock(config, memory_width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def remember(self, image_tokens: Tensor) -> Memory:
        """Keys and values of image tokens [B, N, C'] for every block; compute them once per image."""
        return [block.cross_attention.keys_values(image_tokens) for block in self.blocks]

    def new_cache(self, rows: int) -> Cache:
        """An empty cache for `rows` texts of up to `max_tokens` tokens."""
        weight = self.tokens.weight
        heads = self.blocks[0].attention.heads
        shape = (rows, heads, self.max_tokens, weight.shape[1] // heads)
        return Cache([(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in self.blocks])

    def forward(self, ids: Tensor, memory: Memory, cache: Cache | None = None) -> Tensor:
        past = cache.length if cache else 0
        x = self.tokens(ids) + self.positions.weight[past : past + ids.shape[1]]
        for index, block in enumerate(self.blocks):
            x = block(x, memory[index], cache.keys_values[index] if cache else None, past)
        if cache:
            cache.length += ids.shape[1]
        return self.norm(x) @ self.tokens.weight.T
