"""Lossless animated WebP with frames of equal duration, and the size of an animated WebP or GIF from its headers.

Pillow encodes the frames and decodes the file. Its own writer of animations merges equal frames, which would change
their number. Containers: https://developers.google.com/speed/webp/docs/riff_container and
https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

import io
import struct
from collections.abc import Sequence

from PIL import Image

from glassworks.data.messages import Size

ANIMATED = 0b10
"""Flag of the chunk VP8X."""
OPAQUE = 0b10
"""Flag of a frame that replaces the pixels below it."""
GIF_EXTENSION, GIF_CONTROL, GIF_END = 0x21, 0xF9, 0x3B
"""Bytes that begin a block of a GIF, and the label of the block with the delay of a frame."""


def write_webp(frames: Sequence[Image.Image], milliseconds: int) -> bytes:
    """RGB frames of one size, at least one, as an animation that loops and shows each for `milliseconds`."""
    width, height = frames[0].size
    size = _int24(width - 1) + _int24(height - 1)
    chunks = [_chunk(b"VP8X", bytes([ANIMATED, 0, 0, 0]) + size), _chunk(b"ANIM", bytes(6))]
    for frame in frames:
        assert frame.mode == "RGB" and frame.size == (width, height)
        file = io.BytesIO()
        frame.save(file, "webp", lossless=True, quality=50, method=0)
        header = bytes(6) + size + _int24(milliseconds) + bytes([OPAQUE])
        chunks.append(_chunk(b"ANMF", header + file.getvalue()[12:]))  # without RIFF, its size and WEBP
    return _chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def animation_size(content: bytes) -> Size | None:
    """Size, frames and duration of an animated WebP or GIF, without decoding a frame; None for a still image and anything else.

    As in browsers, a frame of a GIF with a delay below 20 ms is shown for 100 ms.
    """
    try:
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            width, height, delays = _webp(content)
        elif content[:6] in (b"GIF87a", b"GIF89a"):
            width, height, delays = _gif(content)
        else:
            return None
    except (IndexError, struct.error):  # cut short: its decoder says so
        return None
    if len(delays) < 2 or not sum(delays):
        return None
    return Size(kind="video", width=width, height=height, frames=len(delays), seconds=sum(delays) / 1000)


def _webp(content: bytes) -> tuple[int, int, list[int]]:
    """Width, height, and the milliseconds of each frame."""
    at, width, height, delays = 12, 1, 1, []
    while at + 8 <= len(content):
        name, (size,) = content[at : at + 4], struct.unpack_from("<I", content, at + 4)
        if name == b"VP8X":
            width, height = (1 + int.from_bytes(content[at + place : at + place + 3], "little") for place in (12, 15))
        elif name == b"ANMF":
            delays.append(int.from_bytes(content[at + 20 : at + 23], "little"))
        at += 8 + size + size % 2
    return width, height, delays


def _gif(content: bytes) -> tuple[int, int, list[int]]:
    """Width, height, and the milliseconds of each frame."""
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    at, delay, delays = 13 + _colours(flags), 0, []
    while content[at] != GIF_END:
        if content[at] == GIF_EXTENSION:
            if content[at + 1] == GIF_CONTROL:
                delay = 10 * struct.unpack_from("<H", content, at + 4)[0]
            at += 2
        else:
            delays.append(delay if delay >= 20 else 100)
            at, delay = at + 11 + _colours(content[at + 9]), 0
        while content[at]:
            at += 1 + content[at]
        at += 1
    return width, height, delays


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 * 2 ** (1 + flags % 8) if flags & 0x80 else 0


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _int24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]
