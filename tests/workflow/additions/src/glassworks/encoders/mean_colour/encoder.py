"""The mean colour of an image, projected."""

from collections.abc import Mapping
from pathlib import Path

import torch
from glassworks.encoders.mean_colour.settings import MeanColour
from torch import Tensor

from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.images import image_of
from glassworks.models import saving


class MeanColourEncoder:
    """Images to one token."""

    modality = "image"
    tokens = 1

    def __init__(self, projection: Tensor) -> None:
        self.projection, self.width = projection, projection.shape[1]

    def read(self, sample: Sample) -> dict[str, Tensor]:
        """uint8 image [3, 8, 8]."""
        return {"image": image_of(sample, 8)}

    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, 8, 8] to features [B, 1, C]."""
        values = (batch["image"].float().mean((2, 3)) / 255) @ self.projection
        return values[:, None], torch.ones(len(values), 1, dtype=torch.bool)

    def to(self, device: torch.device) -> "MeanColourEncoder":
        """The encoder on another device."""
        return MeanColourEncoder(self.projection.to(device))


def load(settings: MeanColour, directory: Path) -> MeanColourEncoder:
    """The encoder with the weights in a directory."""
    return MeanColourEncoder(saving.read_tensors(directory / saving.WEIGHTS)["projection"])
