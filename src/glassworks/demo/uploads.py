"""A form from a browser: texts and at most one file, held in memory and checked by its content.

The name of a file is never read, and no byte of a form reaches the file system. Every size is limited before memory is taken for it.
"""

import asyncio
import io
import math
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import soundfile
from PIL import Image
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from glassworks.data.animations import animation_size
from glassworks.data.reading.pixels import read_image
from glassworks.data.reading.sounds import read_sound
from glassworks.errors import DataError
from glassworks.models.log_mel import RATE

WHERE = "the file"
"""How messages name an upload."""
MAX_BYTES = 16 * 2**20
"""Limit of the file of a request."""
FORM_BYTES = 2**20
"""Limit of everything else in a request, and of each of its texts."""
MAX_FIELDS = 16
MAX_LETTERS = 20_000
"""Limit of a text."""
MAX_PIXELS = 50_000_000
"""Limit of width times height of an image, by its header."""
MAX_CLIP_PIXELS = 300_000_000
"""Limit of the pixels of all frames of an animation, by its headers."""
MAX_SOUND_NUMBERS = 30_000_000
"""Limit of samples times channels of a sound, by its header: five minutes of stereo at 48 kHz."""
MAX_FILTER = 2_000_000
"""Limit of the filter that resamples a sound, in numbers: it grows with the parts of the two rates that share no factor."""
SECONDS = 60
"""Time for sending a request."""


class Refused(DataError):
    """A request that is not answered. `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Form:
    """The fields of a request."""

    texts: Mapping[str, str] = field(default_factory=dict)
    file: bytes | None = None

    def text(self, name: str, missing: str) -> str:
        """A text. Raises `DataError` with the line `missing` for an empty one, and for one that is too long."""
        text = self.texts.get(name, "")
        if not text.strip():
            raise DataError(missing)
        if len(text) > MAX_LETTERS:
            raise DataError(f"the text has {len(text):,} characters; at most {MAX_LETTERS:,} are read")
        return text


class Memory:
    """The bytes that all requests together may hold."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    @contextmanager
    def reserved(self) -> Iterator[Callable[[int], None]]:
        """A function that reserves bytes until the block ends. It raises `Refused` if too many are held."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if count > self.left:
                raise Refused(503, "too many files are waiting; try again in a moment")
            self.left -= count
            taken += count

        try:
            yield take
        finally:
            self.left += taken


class _InMemory(MultiPartParser):
    spool_max_size = sys.maxsize


async def read_form(
    headers: Headers, stream: AsyncIterator[bytes], max_bytes: int, take: Callable[[int], None]
) -> Form:
    """The form of a request. Raises `Refused` as soon as it is too large, too slow or damaged."""
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refused(415, "the request holds no form (multipart/form-data)")
    too_large = Refused(413, f"{WHERE} is larger than {max_bytes / 2**20:,.3g} MiB; --max-megabytes sets the limit")
    length = headers.get("content-length", "")
    if length.isdecimal() and len(length) < 20 and int(length) > max_bytes + FORM_BYTES:
        raise too_large

    async def counted() -> AsyncGenerator[bytes, None]:
        received = 0
        async for chunk in stream:
            received += len(chunk)
            if received > max_bytes + FORM_BYTES:
                raise too_large
            take(len(chunk))
            yield chunk

    plain = Headers({"content-type": f"multipart/form-data; boundary={options[b'boundary'].decode('latin-1')}"})
    parser = _InMemory(plain, counted(), max_files=1, max_fields=MAX_FIELDS, max_part_size=FORM_BYTES)
    try:
        async with asyncio.timeout(SECONDS):
            found = await parser.parse()
    except TimeoutError:
        raise Refused(408, f"the request did not arrive within {SECONDS} seconds") from None
    except MultiPartException as error:
        raise Refused(400, f"the form is damaged: {error.message}") from None
    file = found.get("file")
    content = await file.read() if isinstance(file, UploadFile) else None
    await found.close()
    if content is not None and len(content) > max_bytes:
        raise too_large
    return Form({name: value for name, value in found.items() if isinstance(value, str)}, content)


def uploaded_image(content: bytes) -> Image.Image:
    """An image in mode RGB; the first frame of an animation. Raises `DataError` for anything else, and for one that is too large."""
    image = read_image(content, WHERE, MAX_PIXELS)
    size = animation_size(content)
    pixels = (size.width or 0) * (size.height or 0) * (size.frames or 0) if size else 0
    if pixels > MAX_CLIP_PIXELS:
        raise DataError(f"{WHERE}: the frames have {pixels:,} pixels together; at most {MAX_CLIP_PIXELS:,} are read")
    return image


def check_sound(content: bytes) -> None:
    """Raise `DataError` for anything but a sound, and for one that is too long or has a rate that takes much memory to resample."""
    try:
        about = soundfile.info(io.BytesIO(content))
    except soundfile.LibsndfileError:
        read_sound(content, WHERE)  # says why not
        raise DataError(f"{WHERE}: the audio does not decode") from None
    numbers = about.frames * about.channels
    if numbers > MAX_SOUND_NUMBERS:
        raise DataError(f"{WHERE}: the sound has {numbers:,} samples; at most {MAX_SOUND_NUMBERS:,} are read")
    shared = math.gcd(about.samplerate, RATE)
    if (about.samplerate // shared) * (RATE // shared) > MAX_FILTER:
        raise DataError(f"{WHERE}: a rate of {about.samplerate:,} Hz is not read; convert it to {RATE:,} Hz")
    read_sound(content, WHERE)
