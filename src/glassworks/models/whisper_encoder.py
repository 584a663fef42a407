"""The encoder of Whisper (Radford et al., 2022): log-mel frames to features, one per two frames (20 ms).

Whisper's keys have no bias. Ours have a bias of 0. A key bias adds the same number to all scores of a query, which changes nothing.
Shapes: B batch, M mel bands, F frames, C width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.models.settings.whisper_encoder import WhisperEncoder as Config
from glassworks.models.vision_transformer import EncoderBlock


class WhisperEncoder(nn.Module):
    """Log-mel frames [B, M, F] to features [B, F / 2, C]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.widths = config, [config.width]
        self.first = nn.Conv1d(config.mels, config.width, 3, padding=1)
        self.second = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.register_buffer("positions", sinusoids(config.frames // 2, config.width))
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def shorten(self, frames: int) -> None:
        """Read windows of at most `frames` frames, with the first positions."""
        frames = min(frames, self.config.frames)
        self.config = self.config.model_copy(update={"frames": frames})
        self.positions = self.positions[: frames // 2].clone()

    def forward(self, frames: Tensor, layer: int = -1) -> Tensor:
        """Features of the frames, after block `layer`; only those of the last block are normalised. Raises `ValueError` if the number of frames does not match the positions; `LogMel` returns the right number."""
        if frames.shape[1:] != (self.config.mels, self.config.frames):
            raise ValueError(f"expected [B, {self.config.mels}, {self.config.frames}] frames, not {list(frames.shape)}")
        x = F.gelu(self.second(F.gelu(self.first(frames)))).transpose(1, 2) + self.positions
        last = range(len(self.blocks))[layer]
        for block in self.blocks[: last + 1]:
            x = block(x)
        return self.norm(x) if last == len(self.blocks) - 1 else x


def sinusoids(length: int, width: int) -> Tensor:
    """Fixed positions [length, width]: sines, then cosines, with wavelengths from 2 pi to 20,000 pi in a geometric sequence."""
    scales = torch.exp(-torch.arange(width // 2) * (torch.log(torch.tensor(10_000.0)) / (width // 2 - 1)))
    angles = torch.arange(length)[:, None] * scales
    return torch.cat([angles.sin(), angles.cos()], dim=1)
