"""Audio: bytes to mono sound at a given rate."""

import torch
import torchaudio
from torch import Tensor

from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.sounds import EXTENSIONS, read_sound
from glassworks.errors import DataError


def audio_of(sample: Sample, rate: int) -> Tensor:
    """The sound of a sample [T], float32 in [-1, 1]; a `DataError` when it has no audio."""
    extension = next((name for name in EXTENSIONS if name in sample.members), None)
    if extension is None:
        raise DataError(f"{sample.where}: no audio among its members {sorted(sample.members)}")
    return decode_audio(sample.members[extension], rate, sample.where)


def decode_audio(data: bytes | memoryview, rate: int, where: str) -> Tensor:
    """Decode audio to mono sound [T] at `rate` samples per second: the mean of the channels, resampled.

    Raises `DataError` beginning with `where` (shard and sample) when the bytes do not decode or hold no sound.
    """
    samples, found = read_sound(data, where)
    sound = torch.from_numpy(samples).mean(dim=1)
    return sound if found == rate else torchaudio.functional.resample(sound, found, rate)
