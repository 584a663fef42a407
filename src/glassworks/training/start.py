"""The initial weights of a run: built by the task, continued from a trained model, and adapted."""

from pathlib import Path

import torch
from torch import nn

from glassworks.models import adapters, saving
from glassworks.models.settings.adapter import Adapter


def as_built(model: nn.Module) -> None:
    """Keep the weights that the task has built."""


def continue_from(model: nn.Module, directory: Path, adapter: Adapter | None = None, seed: int = 0) -> None:
    """Copy the weights of a published model into `model`, and attach an adapter if there is one.

    Raises `ArtifactError` listing missing, extra and misshapen tensors, and `ConfigError` for targets of the adapter that the model lacks.
    """
    own, file = model.state_dict(), directory / saving.WEIGHTS
    tensors = saving.read_tensors(file)
    saving.check({name: tensor.shape for name, tensor in own.items()}, tensors, f"model.from: {file}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    if adapter is not None:
        adapters.attach(model, adapter, seed)
