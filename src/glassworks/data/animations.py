"""Lossless animated WebP with frames of equal duration.

Pillow encodes the frames and decodes the file. Its own writer of animations merges equal frames, which would change
their number. Container: https://developers.google.com/speed/webp/docs/riff_container
"""

import io
import struct
from collections.abc import Sequence

from PIL import Image

ANIMATED = 0b10
"""Flag of the chunk VP8X."""
OPAQUE = 0b10
"""Flag of a frame that replaces the pixels below it."""


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


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _int24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]
