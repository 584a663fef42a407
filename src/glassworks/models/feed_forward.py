"""The feed-forward part of a transformer block, in the variants of published models."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
"""gelu is exact (ViT, Whisper), gelu_tanh is GPT-2's, quick_gelu is CLIP's."""

GATES: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu_tanh": ACTIVATIONS["gelu_tanh"]}
"""Non-linearities of gated feed-forward parts."""

DERIVED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "swiglu": torch.ops.aten.silu_backward,
    "geglu_tanh": partial(torch.ops.aten.gelu_backward, approximate="tanh"),
}
"""The gradients of these non-linearities, from the gradient of the output and the input, as autograd computes them."""


class FeedForward(nn.Module):
    """Two linear maps with a non-linearity between them. A gated one multiplies the non-linearity of one half of the inner features by the other half (Llama, Qwen, Gemma).

    `fused_rows` has the rows of each projection in a fused layer, for adapters.
    """

    def __init__(self, width: int, inner: int, kind: str, bias: bool = True) -> None:
        super().__init__()
        self.kind, self.gated = kind, kind in GATES
        self.activation = GATES[kind] if self.gated else ACTIVATIONS[kind]
        self.fused_rows = {"inner": dict.fromkeys(("gate_proj", "up_proj"), inner)} if self.gated else {}
        self.inner = nn.Linear(width, (1 + self.gated) * inner, bias=bias)
        self.out = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        if self.gated:
            keeps = torch.is_grad_enabled() and not torch.compiler.is_compiling()  # a compiler chooses by itself
            return self.out(_Gated.apply(x, self.kind) if keeps else gated(x, self.activation))
        return self.out(self.activation(x))


def gated(x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """The non-linearity of the first half of the features [..., 2 I], times the second half: [..., I]."""
    gate, up = x.chunk(2, dim=-1)
    return activation(gate) * up


class _Gated(torch.autograd.Function):
    """`gated`. Keeps the inner features alone and computes the non-linearity again in the backward pass, with the same bits. It has no second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kind = kind
        return gated(x, GATES[kind])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gate, up = ctx.saved_tensors[0].chunk(2, dim=-1)
        return torch.cat([DERIVED[ctx.kind](gradient * up, gate), gradient * GATES[ctx.kind](gate)], -1), None
