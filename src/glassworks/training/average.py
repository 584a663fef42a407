"""An exponential moving average of the trained weights (Polyak averaging), which often validates better than the last weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """average ← d · average + (1 - d) · weights after every update, with d = min(decay, (1 + n) / (10 + n)) at update n.

    The smaller d of early updates reduces the influence of the initial weights.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay, self.parameters = decay, parameters
        self.tensors: dict[str, Tensor] = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Update the average with the weights after update `number` (from 0)."""
        decay = min(self.decay, (1 + number) / (10 + number))
        weights = [parameter.detach() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.tensors.values()), weights, 1 - decay)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore a saved average."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @torch.no_grad()
    def swap(self) -> None:
        """Swap the trained weights with their average; a second call restores both."""
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
