"""The one decoder of sounds: bytes to samples, or one line that says why not.

`records` decides with `read_sound`. Training decodes with it too, so a sound that `records` accepts never fails later. Torch is not imported here.
"""

import io
import re

import numpy as np
import soundfile

from glassworks.data.file_kinds import HEAD, describe
from glassworks.errors import DataError

KINDS = {
    "flac": re.compile(rb"fLaC"),
    "mp3": re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"),
    "ogg": re.compile(rb"OggS"),
    "wav": re.compile(rb"(RIFF|RF64)....WAVE", re.DOTALL),
}
"""Formats that are read, by the extension of their member."""
EXTENSIONS = tuple(KINDS)
"""Members of a sample that are audio, the preferred ones first."""


def sound_extension(content: bytes | memoryview) -> str | None:
    """The extension of a sound by its content; None for anything else."""
    head = bytes(content[:HEAD])
    return next((extension for extension, pattern in KINDS.items() if pattern.match(head)), None)


def read_sound(data: bytes | memoryview, where: str) -> tuple[np.ndarray, int]:
    """Samples [T, channels], float32 in [-1, 1], and their rate.

    Raises `DataError` beginning with `where` when the bytes do not decode completely, hold no sound, or numbers that are not finite.
    """
    if not len(data):
        raise DataError(f"{where}: the audio is empty")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            expected, rate, fixed = file.frames, file.samplerate, file.format in ("FLAC", "WAV", "RF64")
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        kind = describe(data)
        reason = f"it is {kind}" if kind and sound_extension(data) is None else error.error_string
        raise DataError(f"{where}: the audio does not decode: {reason}") from None
    if not len(samples):
        raise DataError(f"{where}: the audio is empty")
    if fixed and len(samples) < expected:
        raise DataError(f"{where}: the audio is cut short: {len(samples):,} of {expected:,} samples decode")
    if not np.isfinite(samples).all():
        raise DataError(f"{where}: the audio holds numbers that are not finite")
    return samples, rate
