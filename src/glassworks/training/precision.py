"""Arithmetic of the forward and backward pass: fp32, bf16 or fp16 by autocast, fp16 with loss scaling. Weights stay fp32."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast, and the scaling of fp16 losses, whose state (a scale and a count) belongs into a checkpoint."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass. Casts of weights are not kept between micro-batches."""
        return torch.autocast(self.device.type, DTYPES.get(self.name), enabled=self.name in DTYPES)

    def scaled(self, loss: Tensor) -> Tensor:
        """What is differentiated: the loss times the scale, so that small gradients do not vanish in fp16."""
        return self.scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer step, unless a gradient overflowed: then only the scale becomes smaller."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        self.scaler.load_state_dict(state)
