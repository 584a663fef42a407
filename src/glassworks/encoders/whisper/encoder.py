"""The encoder of Whisper (Radford et al., 2022), frozen."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from glassworks.data.reading.audio import audio_of
from glassworks.data.reading.dataset import Sample
from glassworks.encoders.protocol import check_layer
from glassworks.encoders.whisper.settings import Whisper
from glassworks.models.log_mel import HOP, RATE, LogMel
from glassworks.models.pretrained.whisper import load_whisper_encoder
from glassworks.models.whisper_encoder import WhisperEncoder


class WhisperFeatures:
    """Speech to features of 20 ms; tokens after the end of the sound are masked."""

    modality = "audio"

    def __init__(self, network: WhisperEncoder, layer: int) -> None:
        self.network, self.layer = network.eval().requires_grad_(False), layer
        self.log_mel = LogMel(network.config.mels, network.config.frames)
        self.tokens, self.width = network.config.frames // 2, network.config.width

    def read(self, sample: Sample) -> dict[str, Tensor]:
        """Log-mel frames [M, F], and the number of tokens before the end of the sound."""
        sound = audio_of(sample, RATE)
        frames = -(-len(sound) // HOP)
        return {
            "frames": self.log_mel(sound[None])[0],
            "length": torch.tensor(min(self.tokens, -(-frames // 2))),
        }

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Frames [B, M, F] to features [B, F / 2, C]."""
        values = self.network(batch["frames"], self.layer)
        return values, torch.arange(self.tokens, device=values.device) < batch["length"][:, None]

    def to(self, device: torch.device) -> "WhisperFeatures":
        """Move the network to a device. Frames are computed on the CPU, in `read`."""
        self.network.to(device)
        return self


def load(settings: Whisper, directory: Path) -> WhisperFeatures:
    """The encoder with the weights in a directory in transformers' layout."""
    network = load_whisper_encoder(directory)
    network.shorten(settings.seconds * RATE // HOP)
    check_layer(settings.layer, len(network.blocks))
    return WhisperFeatures(network, settings.layer)
