"""The encoder of Whisper (Radford et al., 2022), frozen."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from glassworks.data.reading.audio import audio_of
from glassworks.data.reading.dataset import Sample
from glassworks.encoders.protocol import check_layer
from glassworks.encoders.whisper.settings import Whisper
from glassworks.models.log_mel import HOP, RATE, LogMel
from glassworks.models.pretrained.whisper import load_whisper_encoder
from glassworks.models.whisper_encoder import WhisperEncoder


class WhisperFeatures:
    """Speech to features of 20 ms, or means of `stride` neighbouring ones; tokens after the end of the sound are masked."""

    modality = "audio"

    def __init__(self, network: WhisperEncoder, layer: int, stride: int = 1) -> None:
        self.network, self.layer, self.stride = network.eval().requires_grad_(False), layer, stride
        self.log_mel = LogMel(network.config.mels, network.config.frames)
        self.places, self.width = network.config.frames // 2, network.config.width
        self.tokens = -(-self.places // stride)

    def read(self, sample: Sample) -> dict[str, Tensor]:
        """Log-mel frames [M, F], and the number of tokens before the end of the sound."""
        sound = audio_of(sample, RATE)
        frames = -(-len(sound) // HOP)
        return {
            "frames": self.log_mel(sound[None])[0],
            "length": torch.tensor(min(self.places, -(-frames // 2))),
        }

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Frames [B, M, F] to features [B, F / 2 / stride, C]."""
        values = self.network(batch["frames"], self.layer)
        mask = torch.arange(self.places, device=values.device) < batch["length"][:, None]
        if self.stride == 1:
            return values, mask
        missing = -self.places % self.stride
        groups = F.pad(mask, (0, missing)).unflatten(1, (-1, self.stride))[..., None]  # [B, T, stride, 1]
        values = F.pad(values, (0, 0, 0, missing)).unflatten(1, (-1, self.stride)) * groups
        return values.sum(2) / groups.sum(2).clamp(min=1), groups.any(2)[..., 0]

    def to(self, device: torch.device) -> "WhisperFeatures":
        """Move the network to a device. Frames are computed on the CPU, in `read`."""
        self.network.to(device)
        return self


def load(settings: Whisper, directory: Path) -> WhisperFeatures:
    """The encoder with the weights in a directory in transformers' layout."""
    network = load_whisper_encoder(directory)
    network.shorten(settings.seconds * RATE // HOP)
    check_layer(settings.layer, len(network.blocks))
    return WhisperFeatures(network, settings.layer, settings.stride)
