"""Precision of the forward and backward pass: fp32, or bf16 and fp16 by autocast, fp16 with loss scaling. Weights stay fp32."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_SCALE = 2.0**-14
"""Below this loss scale, a gradient that is not finite has another cause than the range of fp16. fairseq stops at 1e-4, too."""


class Precision:
    """Autocast and fp16 loss scaling. The state of the scaler (scale, growth count) belongs in a checkpoint."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass. Cast weights are not cached between micro-batches."""
        return torch.autocast(self.device.type, DTYPES.get(self.name), enabled=self.name in DTYPES)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss times the scale, so that small gradients do not underflow in fp16."""
        return self.scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)

    @property
    def may_skip(self) -> bool:
        """Whether a step whose gradient is not finite is skipped with a lower loss scale."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > LEAST_SCALE

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step the optimizer, or skip the step and lower the scale if a gradient overflowed."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def state(self) -> dict[str, object]:
        """The state of the scaler."""
        return self.scaler.state_dict()

    def load(self, state: dict[str, object]) -> None:
        """Restore the state of the scaler."""
        self.scaler.load_state_dict(state)
