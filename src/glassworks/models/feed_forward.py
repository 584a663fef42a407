"""The feed-forward part of a transformer block, in the variants of published models."""

from collections.abc import Callable

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


class FeedForward(nn.Module):
    """Two linear maps with a non-linearity between them. A gated one multiplies the non-linearity of one half of the inner features by the other half (Llama, Qwen, Gemma).

    `fused_rows` has the rows of each projection in a fused layer, for adapters.
    """

    def __init__(self, width: int, inner: int, kind: str, bias: bool = True) -> None:
        super().__init__()
        self.gated = kind in GATES
        self.activation = GATES[kind] if self.gated else ACTIVATIONS[kind]
        self.fused_rows = {"inner": dict.fromkeys(("gate_proj", "up_proj"), inner)} if self.gated else {}
        self.inner = nn.Linear(width, (1 + self.gated) * inner, bias=bias)
        self.out = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            return self.out(self.activation(gate) * x)
        return self.out(self.activation(x))
