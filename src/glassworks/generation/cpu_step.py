"""One decoding step of `TextDecoder` on a CPU, for one token per text, with fewer and faster calls.

A step multiplies a few rows by every weight. Memory bandwidth and the number of operator calls bound it. OpenBLAS, through NumPy, multiplies one row
about twice as fast as PyTorch, and attends with one query about three times as fast. oneDNN multiplies several rows nearly twice as fast as PyTorch,
once it has repacked the matrix. A call of NumPy also costs less than a call of PyTorch. PyTorch computes norms, activations and softmax, for which
NumPy has no single call. benchmarks/decoding.py measures the step.

`supports` checks whether the step applies to a decoder. Other decoders use their own forward pass.
Shapes: B rows, C width, H heads, K heads of keys and values, D size of a head, S tokens so far, V vocabulary.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from glassworks.models.attention import CrossAttention, KeysValues, SelfAttention
from glassworks.models.feed_forward import FeedForward
from glassworks.models.rotary import Rotation, rotate
from glassworks.models.text_decoder import Cache, DecoderBlock, Memory, TextDecoder

REPACK_FROM = 16
"""Minimum number of steps for which repacking a matrix saves time."""
READ_DIRECTLY = (
    TextDecoder,
    DecoderBlock,
    SelfAttention,
    CrossAttention,
    FeedForward,
    nn.ModuleList,
    nn.Linear,
    nn.Embedding,
    nn.LayerNorm,
    nn.RMSNorm,
)
"""Modules whose forward pass the step replaces. Subclasses may compute something else, so they are not supported."""

Array = np.ndarray
Map = Callable[[Array], Array]
"""[B, C] to [B, C']."""


def supports(decoder: nn.Module) -> bool:
    """Whether `CpuStep` is equivalent to the forward pass of `decoder`.

    True for a plain `TextDecoder` in eval mode with float32 weights on a CPU. False with a recursion, an adapter or another subclass of a module, a
    parametrization, a forward hook, a replaced method, a subclass of a tensor, or autocast.
    """
    return (
        type(decoder) is TextDecoder
        and decoder.config.recursion is None
        and all(_is_plain(module) for module in decoder.modules())
        and all(
            type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32
            for weight in decoder.parameters()
        )
        and not _has_any_global_hook()
        and not torch.is_autocast_enabled("cpu")
    )


def _is_plain(module: nn.Module) -> bool:
    replaced_methods = vars(module).keys() & vars(type(module)).keys()
    hooked = module._forward_hooks or module._forward_pre_hooks
    return type(module) in READ_DIRECTLY and not (module.training or replaced_methods or hooked)


class CpuStep:
    """Ids [B], memory and cache to logits [B, V], float32. Uses the weights of the decoder at construction."""

    def __init__(self, decoder: TextDecoder, rows: int, tokens: int) -> None:
        """Requires `supports(decoder)`. `rows` texts get up to `tokens` new tokens each."""
        linear = partial(small_batch_linear, rows=rows, repack=tokens >= REPACK_FROM)
        self.tokens, self.scale, self.views = decoder.tokens.weight, decoder.embedding_scale, decoder.views
        self.positions = decoder.positions.weight if decoder.config.position == "learned" else None
        self.blocks = [_BlockStep(block, linear) for block in decoder.blocks]
        self.norm = _norm(decoder.norm)
        self.head = linear(decoder.tokens.weight if decoder.head is None else decoder.head.weight, None)

    def __call__(self, ids: Tensor, memory: Memory | None, cache: Cache) -> Tensor:
        x = self.tokens.index_select(0, ids)
        if self.scale is not None:
            x = x.mul_(self.scale)
        if self.positions is not None:
            x = x.add_(self.positions.index_select(0, cache.positions(1).view(-1)))
        padding, end = cache.mask(1), cache.length + 1
        bias = None if padding is None else padding.numpy()
        kept = cache.kept.numpy()
        new, seen = kept[:, :, :, end - 1], kept[:, :, :, :end]
        rotations = {view.rope: cache.rotation(1, view.rope) for view in dict.fromkeys(self.views)}
        for index, (block, view) in enumerate(zip(self.blocks, self.views, strict=True)):
            start = 0 if view.window is None else max(0, end - view.window)
            block(
                x,
                new[index],
                seen[index, :, :, start:],
                bias if bias is None else bias[..., start:],
                rotations[view.rope],
                memory and memory[index],
            )
        cache.length += 1
        return torch.from_numpy(self.head(self.norm(x))).clone()


class _BlockStep:
    """A `DecoderBlock` without dropout."""

    def __init__(self, block: DecoderBlock, linear: Callable[[Tensor, Tensor | None], Map]) -> None:
        attention, forward = block.attention, block.feed_forward
        self.norm, self.forward_norm = _norm(block.attention_norm), _norm(block.feed_forward_norm)
        self.qkv, self.out = (linear(part.weight, part.bias) for part in (attention.qkv, attention.out))
        self.inner, self.outer = (linear(part.weight, part.bias) for part in (forward.inner, forward.out))
        self.activation, self.gated = forward.activation, forward.gated
        self.heads, self.kv_heads, self.size = attention.heads, attention.kv_heads, attention.size
        self.scale = attention.size**-0.5 if attention.scale is None else attention.scale
        self.head_norms = (attention.query_norm, attention.key_norm) if attention.normed else None
        self.output_norms = None
        if block.has_output_norms:
            self.output_norms = _norm(block.attention_output_norm), _norm(block.feed_forward_output_norm)
        self.cross = None
        if block.has_cross_attention:
            self.cross, self.cross_norm = _CrossStep(block, linear), _norm(block.cross_norm)

    def __call__(
        self,
        x: Tensor,
        new: Array,
        seen: Array,
        bias: Array | None,
        rotation: Rotation | None,
        memory: KeysValues | None,
    ) -> None:
        """Update `x` [B, C] in place.

        Writes the keys and values of the new tokens to `new` [B, 2 K, D]. The new tokens attend to `seen` [B, 2 K, S, D], which includes `new`.
        """
        stream = x.numpy()
        mixed = self.attend(self.norm(x), new, seen, bias, rotation)
        stream += mixed if self.output_norms is None else self.output_norms[0](torch.from_numpy(mixed))
        if self.cross is not None:
            stream += self.cross(self.cross_norm(x), memory)
        inner = torch.from_numpy(self.inner(self.forward_norm(x)))
        if self.gated:
            gate, inner = inner.chunk(2, dim=-1)
            added = self.outer((self.activation(gate) * inner).numpy())
        else:
            added = self.outer(self.activation(inner).numpy())
        stream += added if self.output_norms is None else self.output_norms[1](torch.from_numpy(added))

    def attend(self, x: Array, new: Array, seen: Array, bias: Array | None, rotation: Rotation | None) -> Array:
        """Self-attention [B, C]."""
        heads = self.qkv(x).reshape(len(x), -1, self.size)  # [B, H + 2 K, D]
        if self.head_norms is not None:
            for norm, part in zip(
                self.head_norms, np.split(heads, (self.heads, self.heads + self.kv_heads), 1), strict=False
            ):
                part[:] = torch.rms_norm(
                    torch.from_numpy(part), norm.normalized_shape, norm.weight.detach(), norm.eps
                ).numpy()
        if rotation is not None:
            turned = torch.from_numpy(heads[:, : self.heads + self.kv_heads, None])
            turned.copy_(rotate(turned, rotation))
        new[:] = heads[:, self.heads :]
        query = heads[:, : self.heads].reshape(len(x), self.kv_heads, -1, self.size)
        return self.out(_attention(query, seen[:, : self.kv_heads], seen[:, self.kv_heads :], bias, self.scale))


class _CrossStep:
    """Gated cross-attention."""

    def __init__(self, block: DecoderBlock, linear: Callable[[Tensor, Tensor | None], Map]) -> None:
        attention = block.cross_attention
        self.gate, self.heads = torch.tanh(block.gate.detach()).numpy(), attention.heads
        self.query, self.out = (linear(part.weight, part.bias) for part in (attention.query, attention.out))

    def __call__(self, x: Array, memory: KeysValues) -> Array:
        query = self.query(x).reshape(len(x), self.heads, 1, -1)
        return (
            self.out(_attention(query, memory[0].numpy(), memory[1].numpy(), None, query.shape[-1] ** -0.5)) * self.gate
        )


def _attention(query: Array, keys: Array, values: Array, bias: Array | None, scale: float) -> Array:
    """Attention of queries [B, K, H / K, D] to keys and values [B, K, S, D], with `bias` [B, 1, 1, S] added to the scores times `scale`: [B, H D]."""
    scores = np.matmul(query, keys.swapaxes(2, 3))
    scores *= scale
    if bias is not None:
        scores += bias
    return np.matmul(torch.from_numpy(scores).softmax(-1).numpy(), values).reshape(len(query), -1)


def small_batch_linear(weight: Tensor, bias: Tensor | None, rows: int, repack: bool) -> Map:
    """The fastest linear map [rows, C] to [rows, C'] for a weight [C', C] and a bias [C'].

    A map for one row accepts one row only, and its next call overwrites the result. A map for several rows accepts any number.
    """
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if rows == 1:
        return _by_numpy(weight, bias)
    if repack and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        multiply = torch.ops.mkldnn._linear_pointwise
        return lambda x: multiply(torch.from_numpy(x), packed, bias, "none", [], "").numpy()
    return lambda x: F.linear(torch.from_numpy(x), weight, bias).numpy()


def _by_numpy(weight: Tensor, bias: Tensor | None) -> Map:
    """A linear map of one row, [1, C] to [1, C']. The next call overwrites the result."""
    transposed, added = weight.numpy().T, None if bias is None else bias.numpy()
    product = np.empty((1, len(weight)), dtype=np.float32)

    def apply(x: Array) -> Array:
        np.dot(x, transposed, out=product)
        if added is not None:
            np.add(product, added, out=product)
        return product

    return apply


def _norm(norm: nn.LayerNorm | nn.RMSNorm) -> Callable[[Tensor], Array]:
    """The norm as a function, without the overhead of a module call."""
    shape, weight = norm.normalized_shape, norm.weight.detach()
    if isinstance(norm, nn.RMSNorm):
        return lambda x: torch.rms_norm(x, shape, weight, norm.eps).numpy()
    bias = None if norm.bias is None else norm.bias.detach()
    return lambda x: torch.layer_norm(x, shape, weight, bias, norm.eps, False).numpy()
