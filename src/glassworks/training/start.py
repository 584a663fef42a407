"""The initial weights of a run: built by the task, or continued from a trained model."""

from pathlib import Path

from torch import nn

from glassworks.models import saving
from glassworks.models.saving import Matches


def as_built(model: nn.Module) -> None:
    """Keep the weights that the task has built."""


def continue_from(model: nn.Module, directory: Path) -> Matches:
    """Copy the weights of a published model into `model`. Raises `ArtifactError` listing missing, extra and misshapen tensors."""
    file = directory / saving.WEIGHTS
    return saving.fill(model, saving.read_tensors(file), f"model.from: {file}")
