"""An exponential moving average of the weights (Polyak averaging), which often validates better than the last weights."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """average ← d · average + (1 - d) · weights after every step, with d = min(decay, (1 + n) / (10 + n)) at step n.

    The smaller d of early steps reduces the influence of the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.model = decay, model
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [parameter.detach() for parameter in self.model.parameters()]
        torch._foreach_lerp_(list(self.tensors.values()), weights, 1 - decay)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore a saved average."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @torch.no_grad()
    def swap(self) -> None:
        """Swap the model's weights with the average; a second call restores both."""
        for name, parameter in self.model.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
