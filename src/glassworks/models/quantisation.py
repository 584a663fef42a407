"""Frozen linear layers held in 4 or 8 bit, in plain PyTorch. Their restored weights are those of bitsandbytes 0.50 on a CPU, bit for bit.

`nf4` is NormalFloat4 with double quantisation (Dettmers et al., 2023, "QLoRA"). Every 64 weights share one scale, and 256 scales share another. A scale
is one of 256 values of a dynamic 8-bit map, relative to the mean of all scales. This takes 4.13 bits a weight. `int8` has one float32 scale a row, the
largest absolute weight / 127 (Dettmers et al., 2022, "LLM.int8()"), but activations stay in floating point.

A layer restores its weight in the forward pass and again in the backward pass; autograd never keeps it.
Shapes: C input features, C' output features, N weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Quantisation = Literal["nf4", "int8"]
BLOCK, SCALES = 64, 256
"""Weights that share a scale, and scales that share a scale of their own."""
LEVELS = torch.tensor(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
        -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]
)  # fmt: skip
"""NF4: the levels of a weight relative to its scale."""
PAIRS = torch.stack([LEVELS.repeat_interleave(16), LEVELS.repeat(16)], 1).view(torch.int64)[:, 0].contiguous()
"""The two levels of every byte, [256]. A pair is one element of 8 bytes, which is faster to gather than two of 4."""
PART = 2**18
"""Weights that a CPU restores at a time: intermediate results stay in the cache, which is several times faster."""
RECIPROCAL = 7.874015718698502e-3
"""1/127 as bitsandbytes rounds it."""
STEPS = 32767.5
"""bitsandbytes rounds a scale to a grid of 2 ** 16 values between -1 and 1 before it looks for the nearest value of the map."""


def _dynamic_map() -> Tensor:
    """The 256 values of the 8-bit scales: seven decades below 1 of either sign, each with twice as many values as the one below it."""
    values = [0.0, 1.0]
    for decade in range(7):
        bounds = torch.linspace(0.1, 1, 2**decade + 1)
        means = 10.0 ** (decade - 6) * ((bounds[:-1] + bounds[1:]) / 2)
        values += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(values))


DYNAMIC = _dynamic_map()


class Nf4(NamedTuple):
    """Weights in NF4."""

    codes: Tensor
    """uint8 [N / 2]: the levels of two weights, the first in the upper half."""
    scale_codes: Tensor
    """uint8 [N / 64]: positions in the dynamic map."""
    scales: Tensor
    """float32 [N / 64 / 256]: scales of the scales."""
    offset: Tensor
    """float32 []: the mean of all scales."""


class Int8(NamedTuple):
    """Weights in 8 bit."""

    codes: Tensor
    """int8 [C', C]."""
    scales: Tensor
    """float32 [C']: the largest absolute weight of each row."""


STORED: dict[str, type[Nf4] | type[Int8]] = {"nf4": Nf4, "int8": Int8}


@torch.no_grad()
def quantise(weight: Tensor, kind: Quantisation) -> Nf4 | Int8:
    """A weight [C', C] in 4 or 8 bit. On a CPU the result depends neither on the number of threads nor on the dtype that holds the values."""
    return _quantise_nf4(weight) if kind == "nf4" else _quantise_int8(weight)


@torch.no_grad()
def restore(stored: Nf4 | Int8, shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight [C', C], computed in float32 and rounded to `dtype`."""
    device = stored.codes.device
    weight = torch.empty(shape, dtype=dtype, device=device)
    step = PART if device.type == "cpu" else max(BLOCK, weight.numel())
    if isinstance(stored, Int8):
        rows = max(1, step // shape[1])
        scales = stored.scales[:, None]
        for begin in range(0, shape[0], rows):
            part = slice(begin, begin + rows)
            weight[part] = (stored.codes[part] * scales[part]).mul_(RECIPROCAL)
        return weight
    count = len(stored.scale_codes)
    scales = DYNAMIC.to(device)[stored.scale_codes.int()] * stored.scales.repeat_interleave(SCALES)[:count]
    scales = (scales + stored.offset)[:, None]
    pairs, flat = PAIRS.to(device), weight.view(-1)
    for begin in range(0, count, -(-step // BLOCK)):
        end = begin + -(-step // BLOCK)
        codes = stored.codes[begin * BLOCK // 2 : end * BLOCK // 2].int()
        levels = pairs.index_select(0, codes).view(torch.float32)
        part = flat[begin * BLOCK : end * BLOCK]
        if len(part) % BLOCK:
            part.copy_(levels[: len(part)] * scales[begin:end].repeat_interleave(BLOCK)[: len(part)])
        else:
            part.view(-1, BLOCK).copy_(levels.view(-1, BLOCK).mul_(scales[begin:end]))
    return weight


def _quantise_nf4(weight: Tensor) -> Nf4:
    flat = weight.detach().flatten()
    bounds = ((LEVELS[:-1] + LEVELS[1:]) / 2).to(flat.device)
    parts = [_nearest_levels(part, bounds) for part in flat.split(PART)]
    scales, codes = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    with one_thread():
        offset = scales.mean()
    rest, of_scales = _in_blocks(scales - offset, SCALES)
    rest = rest * (1 / of_scales.clamp(min=1e-38))[:, None]
    grid = ((rest.clamp_(-1, 1) + 1) * STEPS + 0.5).int().float() / STEPS - 1
    bounds = ((DYNAMIC[:-1] + DYNAMIC[1:]) / 2).to(flat.device)
    scale_codes = torch.bucketize(grid, bounds, out_int32=True).to(torch.uint8).flatten()[: len(scales)]
    return Nf4(codes, scale_codes, of_scales, offset)


def _nearest_levels(flat: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """The scales of the blocks of some weights, and the levels of two weights a byte."""
    blocks, scales = _in_blocks(flat.float(), BLOCK)
    relative = blocks * (1 / scales.clamp(min=1e-38))[:, None]
    if len(flat) % BLOCK:  # bitsandbytes divides in a block that is not full
        relative[-1] = blocks[-1] / scales[-1].clamp(min=1e-38)
    levels = torch.bucketize(relative.clamp_(-1, 1).flatten()[: len(flat) + len(flat) % 2], bounds, out_int32=True)
    levels = levels.to(torch.uint8)
    return scales, levels[::2] << 4 | levels[1::2]


def _quantise_int8(weight: Tensor) -> Int8:
    values = weight.detach().float()
    scales = values.abs().amax(1)
    codes = (values * (127 / scales)[:, None]).round_().nan_to_num_(0)  # a row of zeros divides by 0
    return Int8(codes.to(torch.int8), scales)


def _in_blocks(flat: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Values in blocks [N / size, size], the last one padded with zeros, and the largest absolute value of each block."""
    blocks = F.pad(flat, (0, -len(flat) % size)).view(-1, size)
    return blocks, blocks.abs().amax(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: the order of a sum, and so its last bits, depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class QuantisedLinear(nn.Module):
    """A frozen linear layer in 4 or 8 bit: [..., C] to [..., C'].

    It multiplies in the dtype of its input, or of autocast, with the weight restored in that dtype. The stored tensors are buffers.
    """

    def __init__(self, layer: nn.Linear, kind: Quantisation) -> None:
        """Quantise the weight of `layer`; the bias is kept as it is."""
        super().__init__()
        self.kind, self.in_features, self.out_features = kind, layer.in_features, layer.out_features
        for name, tensor in quantise(layer.weight, kind)._asdict().items():
            self.register_buffer(name, tensor)
        self.bias = layer.bias
        self.train(layer.training)

    @property
    def shape(self) -> tuple[int, int]:
        """(C', C) of the weight."""
        return self.out_features, self.in_features

    @property
    def stored(self) -> Nf4 | Int8:
        """The quantised weight."""
        form = STORED[self.kind]
        return form(*(getattr(self, name) for name in form._fields))

    @property
    def weight(self) -> Tensor:
        """The weight [C', C] that the layer multiplies by, restored in float32 by every call."""
        return restore(self.stored, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.bias)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x` [..., C] times the weight, plus `bias` [C']."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        bias = None if bias is None else bias.to(x.dtype)
        stored = (*self.stored, None, None)[:4]
        with torch.autocast(device, enabled=False):
            product: Tensor = _Product.apply(x, bias, self.kind, self.shape, *stored)
        return product

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}"


class _Product(torch.autograd.Function):
    """A linear map of features [..., C] with a frozen weight. Keeps the quantised weight for the backward pass, and neither features nor weight."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        kind: Quantisation,
        shape: tuple[int, int],
        first: Tensor,
        second: Tensor,
        third: Tensor | None,
        fourth: Tensor | None,
    ) -> Tensor:
        """The last four are the stored tensors, or None: torch's compiler takes no `*stored` here."""
        stored = [one for one in (first, second, third, fourth) if one is not None]
        ctx.save_for_backward(*stored)
        ctx.kind, ctx.weight_shape = kind, shape
        return F.linear(x, restore(STORED[kind](*stored), shape, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        back = None
        if ctx.needs_input_grad[0]:
            back = gradient @ restore(STORED[ctx.kind](*ctx.saved_tensors), ctx.weight_shape, gradient.dtype)
        return back, *[None] * 7


def layers_of(model: nn.Module) -> list[str]:
    """Names of the layers that are quantised: all linear layers of `model.blocks()`."""
    blocks: Any = model.blocks
    inside = {id(module) for block in blocks() for module in block.modules()}
    return [name for name, module in model.named_modules() if id(module) in inside and type(module) is nn.Linear]


def count_parameters(model: nn.Module) -> int:
    """The number of parameters, weights of quantised layers included."""
    quantised = [module for module in model.modules() if isinstance(module, QuantisedLinear)]
    return sum(one.numel() for one in model.parameters()) + sum(one.in_features * one.out_features for one in quantised)
