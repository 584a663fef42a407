"""One more token for every text of a batch: what `TextDecoder.hidden` and `logits` compute for T = 1, written out for a CPU.

Decoding multiplies a handful of rows with every weight, and is bound by how fast weights stream from memory and by the number of operations called. PyTorch
multiplies a few rows with the routines that it has for many. NumPy's BLAS (OpenBLAS) multiplies one row about twice as fast; oneDNN, which PyTorch brings
along, several rows more than twice as fast, when a matrix is repacked for it once. benchmarks/decoding.py measures both.

Shapes: B rows, C width, H heads, K heads of keys and values, D size of a head, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.models.attention import KeysValues
from glassworks.models.rotary import Rotation, rotate

REPAYS = 16
"""Tokens after which repacking is repaid."""

Map = Callable[[Tensor], Tensor]
"""[B, C] to [B, C']."""


class DecoderStep:
    """Ids [B], memory and cache to logits [B, V]; float32 on a CPU. The weights are those of the decoder when this is made."""

    def __init__(self, decoder: Any, rows: int, tokens: int) -> None:
        """`decoder` is a `TextDecoder`, of which `rows` texts of up to `tokens` new tokens are wanted."""
        linear = partial(few_rows, rows=rows, repack=tokens >= REPAYS)
        self.tokens = decoder.tokens.weight
        self.positions = decoder.positions.weight if decoder.config.position == "learned" else None
        self.blocks = [_BlockStep(block, linear) for block in decoder.blocks]
        self.norm = _norm(decoder.norm)
        self.head = linear(decoder.tokens.weight if decoder.head is None else decoder.head.weight, None)

    def __call__(self, ids: Tensor, memory: Any, cache: Any) -> Tensor:
        x = self.tokens.index_select(0, ids)
        if self.positions is not None:
            x = x + self.positions.index_select(0, cache.positions(1).view(-1))
        bias, rotation, past = cache.mask(1), cache.rotation(1), cache.length
        new, seen = cache.kept.narrow(3, past, 1).unbind(), cache.kept.narrow(3, 0, past + 1).unbind()
        for index, block in enumerate(self.blocks):
            x = block(x, new[index], seen[index], bias, rotation, memory and memory[index])
        cache.length += 1
        return self.head(self.norm(x))


class _BlockStep:
    """A `DecoderBlock` without dropout."""

    def __init__(self, block: Any, linear: Callable[[Tensor, Tensor | None], Map]) -> None:
        attention, forward = block.attention, block.feed_forward
        self.norm, self.forward_norm = _norm(block.attention_norm), _norm(block.feed_forward_norm)
        self.qkv, self.out = (linear(part.weight, part.bias) for part in (attention.qkv, attention.out))
        self.inner, self.outer = (linear(part.weight, part.bias) for part in (forward.inner, forward.out))
        self.activation, self.gated = forward.activation, forward.gated
        self.heads, self.kv_heads, self.size = attention.heads, attention.kv_heads, attention.size
        self.cross = _CrossStep(block, linear) if block.sees else None

    def __call__(
        self,
        x: Tensor,
        new: Tensor,
        seen: Tensor,
        bias: Tensor | None,
        rotation: Rotation | None,
        memory: KeysValues | None,
    ) -> Tensor:
        """`new` [B, 2 K, 1, D] is where the keys and values of these tokens go, `seen` [B, 2 K, S, D] all that they may attend to, themselves included."""
        x = x + self.attend(self.norm(x), new, seen, bias, rotation)
        if self.cross is not None:
            x = x + self.cross(x, memory)
        inner = self.inner(self.forward_norm(x))
        if self.gated:
            gate, inner = inner.chunk(2, dim=-1)
            return x + self.outer(self.activation(gate) * inner)
        return x + self.outer(self.activation(inner))

    def attend(self, x: Tensor, new: Tensor, seen: Tensor, bias: Tensor | None, rotation: Rotation | None) -> Tensor:
        """Self-attention [B, C]."""
        heads = self.qkv(x).view(len(x), -1, 1, self.size)  # [B, H + 2 K, 1, D]
        if rotation is not None:
            turned = heads.narrow(1, 0, self.heads + self.kv_heads)
            turned.copy_(rotate(turned, rotation))
        new.copy_(heads.narrow(1, self.heads, 2 * self.kv_heads))
        keys, values = seen.chunk(2, 1)
        grouped = self.heads != self.kv_heads
        query = heads.narrow(1, 0, self.heads)
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, enable_gqa=grouped)
        return self.out(mixed.reshape(x.shape))


class _CrossStep:
    """Gated cross-attention."""

    def __init__(self, block: Any, linear: Callable[[Tensor, Tensor | None], Map]) -> None:
        attention = block.cross_attention
        self.norm, self.gate, self.heads = _norm(block.cross_norm), torch.tanh(block.gate.detach()), attention.heads
        self.query, self.out = (linear(part.weight, part.bias) for part in (attention.query, attention.out))

    def __call__(self, x: Tensor, memory: KeysValues) -> Tensor:
        query = self.query(self.norm(x)).view(len(x), self.heads, 1, -1)
        mixed = F.scaled_dot_product_attention(query, *memory)
        return self.gate * self.out(mixed.reshape(x.shape))


def few_rows(weight: Tensor, bias: Tensor | None, rows: int, repack: bool) -> Map:
    """The linear map of `rows` rows, in whatever way is fastest; it is right for any number."""
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if rows == 1:
        return partial(_by_numpy, transposed=weight.numpy().T, bias=None if bias is None else bias.numpy())
    if repack and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return lambda x: F.linear(x, weight, bias)


def _by_numpy(x: Tensor, transposed: np.ndarray, bias: np.ndarray | None) -> Tensor:
    product = np.dot(x.numpy(), transposed)
    if bias is not None:
        product += bias
    return torch.from_numpy(product)


def _norm(norm: nn.LayerNorm | nn.RMSNorm) -> Map:
    """The norm without the call of a module."""
    shape, weight = norm.normalized_shape, norm.weight.detach()
    if isinstance(norm, nn.RMSNorm):
        return lambda x: torch.rms_norm(x, shape, weight, norm.eps)
    bias = None if norm.bias is None else norm.bias.detach()
    return lambda x: torch.layer_norm(x, shape, weight, bias, norm.eps, False)
