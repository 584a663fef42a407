"""The interface of frozen encoders, and how one is loaded from its settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from glassworks.config import registry
from glassworks.config.encoder import Encoder as Settings
from glassworks.data.reading.dataset import Sample

Reading = dict[str, Tensor]
"""A decoded sample: tensors of the same shapes for every sample, so that readings stack."""


class Encoder(Protocol):
    """A frozen network from samples to feature tokens. It has no trainable parameters and draws nothing at random."""

    modality: str
    """image, audio or text."""
    tokens: int
    """Feature tokens per sample, masked ones included."""
    width: int
    """Features per token."""

    def read(self, sample: Sample) -> Reading:
        """Decode a sample; a `DataError` names its shard and key when it has no such member or the member does not decode."""

    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Stacked readings of B samples to features [B, tokens, width] in float32 and their mask [B, tokens], True at real tokens."""

    def to(self, device: torch.device) -> "Encoder":
        """Move the network to a device."""


class EncoderModule(Protocol):
    """The code of an encoder: encoders/NAME/encoder.py."""

    def load(self, settings: Settings, directory: Path, /) -> Encoder:
        """The encoder with the published weights in a directory."""


def load_encoder(settings: Settings, directory: Path) -> Encoder:
    """The encoder that settings describe. The stage that calls this names the encoder's folder among its entries."""
    return cast(EncoderModule, registry.code("encoders", settings.kind)).load(settings, directory)


def stack(readings: Sequence[Reading]) -> Reading:
    """Readings of several samples as one batch."""
    return {name: torch.stack([reading[name] for reading in readings]) for name in readings[0]}
