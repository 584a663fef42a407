"""Initial weights that a run continues from."""

from pathlib import Path

import torch
from torch import nn

from glassworks.models import saving


def as_built(model: nn.Module) -> None:
    """Keep the weights that the task has built."""


@torch.no_grad()
def continue_from(model: nn.Module, directory: Path) -> None:
    """Copy the weights of a published model into `model`. Raises `ArtifactError` listing missing, extra and misshapen tensors."""
    own, file = model.state_dict(), directory / saving.WEIGHTS
    tensors = saving.read_tensors(file)
    saving.check({name: tensor.shape for name, tensor in own.items()}, tensors, f"model.from: {file}")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
