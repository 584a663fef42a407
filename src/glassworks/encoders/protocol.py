"""The protocol of frozen encoders, and their loader."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from glassworks.config import registry
from glassworks.config.encoder import Encoder as Settings
from glassworks.data.reading import pixels, sounds
from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.dataset import Sample
from glassworks.errors import ConfigError

EXTENSIONS = {"image": pixels.EXTENSIONS, "audio": sounds.EXTENSIONS}
"""Members of a sample by modality."""
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
        """The decoded sample. Raises `DataError` with shard and key when the member is missing or does not decode."""

    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Stacked readings of B samples to features [B, tokens, width] in float32 and their mask [B, tokens], True at real tokens."""

    def to(self, device: torch.device) -> "Encoder":
        """Move the network to a device."""


class FrameEncoder(Encoder, Protocol):
    """An encoder of images, which encodes the frames of a clip and the crops of an image as images."""

    image_size: int
    """Pixels of a side of its input."""

    def read_frame(self, frame: Tensor) -> Reading:
        """A reading of an image, uint8 [3, H, W], as `read` gives one of a sample."""


class EncoderModule(Protocol):
    """The code of an encoder: encoders/NAME/encoder.py."""

    def load(self, settings: Settings, directory: Path, /) -> Encoder:
        """The encoder with the published weights in a directory."""


def load_encoder(settings: Settings, directory: Path) -> Encoder:
    """The encoder of these settings. A stage that calls this lists the encoder's folder among its entries."""
    return cast(EncoderModule, registry.code("encoders", settings.encoder)).load(settings, directory)


def stack(readings: Sequence[Reading]) -> Reading:
    """Readings of several samples as one batch."""
    return {name: torch.stack([reading[name] for reading in readings]) for name in readings[0]}


def has_modality(sample: Sample, modality: str) -> bool:
    """Whether a sample has an image, a sound or a text."""
    if modality == "text":
        return bool(read_captions(sample.members, sample.where))
    return any(name in sample.members for name in EXTENSIONS[modality])


def check_layer(layer: int, blocks: int) -> None:
    """Raise `ConfigError` for a block that an encoder does not have."""
    if not -blocks <= layer < blocks:
        raise ConfigError(
            f"layer: {layer} is not a block of this encoder; it has {blocks}: 0 … {blocks - 1} or -{blocks} … -1"
        )
