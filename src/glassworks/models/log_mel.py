"""Whisper's log-mel spectrogram (Radford et al., 2022, section 2.2): sound to frames of 10 ms, padded or cut to 30 s."""

import torch
import torchaudio
from torch import Tensor, nn

RATE, WINDOW, HOP = 16_000, 400, 160
"""Samples per second, per window (25 ms) and between windows (10 ms)."""


class LogMel(nn.Module):
    """Sound [B, T], 16 kHz mono in [-1, 1], to log-mel frames [B, mels, frames]. The sound is cut or padded with silence to `frames`."""

    def __init__(self, mels: int = 80, frames: int = 3000) -> None:
        super().__init__()
        self.frames = frames
        filters = torchaudio.functional.melscale_fbanks(
            WINDOW // 2 + 1, 0.0, RATE / 2, mels, RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)  # [mels, frequencies]
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    @torch.no_grad()
    def forward(self, sound: Tensor) -> Tensor:
        length = self.frames * HOP
        sound = nn.functional.pad(sound[:, :length], (0, max(0, length - sound.shape[1])))
        spectrum = torch.stft(sound, WINDOW, HOP, window=self.window, return_complex=True)
        power = spectrum[..., :-1].abs() ** 2  # the last window starts at the end of the sound
        mels = (self.filters @ power).clamp(min=1e-10).log10()
        mels = mels.maximum(mels.amax(dim=(1, 2), keepdim=True) - 8)
        return (mels + 4) / 4
