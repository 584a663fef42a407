"""Speech synthesis by hibari-tts: a text to mono sound of 16 kHz as FLAC, the same bytes on every call.

onnxruntime runs on one thread, so the bytes do not depend on the cores. The noise of a voice is seeded by the key of the sample.
"""

import hashlib
import io
from importlib.metadata import version

import numpy as np
import soundfile

RATE = 16_000
"""Samples per second of the FLAC; the rate that Whisper and most speech encoders read."""
TAPS = 16
"""Zero crossings of the resampling filter on each side."""


class Speaker:
    """One voice at one speed."""

    def __init__(self, voice: str, speed: float, seed: int) -> None:
        from hibari import Hibari  # loads onnxruntime

        self.voice, self.speed, self.seed = Hibari(voice=voice, threads=1), speed, seed

    def speak(self, key: str, text: str) -> np.ndarray:
        """int16 [T] at `RATE`: the text spoken for the sample `key`. A text without letters has no sound, or silence."""
        seed = int.from_bytes(hashlib.blake2b(f"{self.seed}/{key}".encode(), digest_size=8).digest(), "big")
        sound = resample(self.voice(text, speed=self.speed, seed=seed).astype(np.float64), 2, 3)
        return np.round(sound.clip(-1, 1) * 32767).astype(np.int16)


def speech_versions() -> dict[str, str]:
    """The versions of the packages that may change the bytes of speech, for the fingerprint."""
    return {name: version(name) for name in ("hibari-tts", "onnxruntime")}


def as_flac(sound: np.ndarray) -> bytes:
    """int16 [T] at `RATE` as FLAC."""
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def resample(sound: np.ndarray, up: int, down: int) -> np.ndarray:
    """Sound [T] at `up` / `down` of its rate, [ceil(T * up / down)], by a windowed sinc filter.

    The sums are plain additions of shifted products, without BLAS, so the bits depend neither on threads nor on the vector width.
    """
    width = TAPS * max(up, down)
    places = np.arange(-width, width + 1)
    ratio = 0.95 / max(up, down)  # the pass band ends a little below the lower Nyquist frequency
    kernel = up * ratio * np.sinc(ratio * places) * np.kaiser(len(places), 8.0)
    length = -(-len(sound) * up // down)
    found, padded = np.zeros(length), np.pad(sound, (width, width + down * up))
    for place, weight in zip(places, kernel, strict=True):
        # Output n reads input m where m * up + place == n * down.
        first = next(n for n in range(up) if (n * down - place) % up == 0)
        start, count = width + (first * down - place) // up, len(range(first, length, up))
        found[first::up] += weight * padded[start : start + down * count : down]
    return found
