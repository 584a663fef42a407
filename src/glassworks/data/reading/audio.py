"""Audio: bytes to mono sound at a given rate."""

import io

import soundfile
import torch
import torchaudio
from torch import Tensor

from glassworks.data.reading.dataset import Sample
from glassworks.errors import DataError

EXTENSIONS = ("flac", "mp3", "ogg", "wav")
"""Members of a sample that are audio."""


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
    try:
        samples, found = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{where}: the audio does not decode: {error.error_string}") from None
    if not len(samples):
        raise DataError(f"{where}: the audio is empty")
    sound = torch.from_numpy(samples).mean(dim=1)
    return sound if found == rate else torchaudio.functional.resample(sound, found, rate)
