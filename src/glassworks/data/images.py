"""Images: bytes to tensors. Decoding, resizing and scaling, and nothing random (that is for the transform of a task)."""

import io
import re

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as read_pixels

from glassworks.errors import DataError

EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""Members of a sample that are images."""
JPEG, PNG, WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"
GRAY, COLOURS = 0, 2
"""Colour types in a PNG's header."""


def decode_image(data: bytes | memoryview, where: str) -> torch.Tensor:
    """Decode a JPEG, PNG or WebP to uint8 [3, H, W], upright (EXIF orientation applied); gray becomes RGB, transparent parts lie on white.

    Raises `DataError` beginning with `where` (shard and sample) when the bytes do not decode.
    """
    head = bytes(data[:26])
    try:
        if head.startswith(JPEG):
            return read_pixels(_tensor(data), ImageReadMode.RGB, apply_exif_orientation=True)
        if head.startswith(PNG) and len(head) == 26:
            return _decode_png(data, depth=head[24], kind=head[25])
        if head.startswith(WEBP):
            return _on_white(read_pixels(_tensor(data), ImageReadMode.RGB_ALPHA))
    except (RuntimeError, ValueError, OSError, SyntaxError) as error:
        reason = re.sub(r"^.*\.cpp:\d+, ", "", str(error).splitlines()[0])
        raise DataError(f"{where}: the image does not decode: {reason}") from None
    raise DataError(f"{where}: the image is no JPEG, PNG or WebP" if head else f"{where}: the image is empty")


def _decode_png(data: bytes | memoryview, depth: int, kind: int) -> torch.Tensor:
    """torchvision 0.27 does not stretch gray of fewer than 8 bits to 0 … 255, nor knows a transparent colour outside a palette: Pillow reads those."""
    colour_key = kind in (GRAY, COLOURS) and b"tRNS" in bytes(data[: bytes(data).find(b"IDAT")])
    if depth < 8 or (colour_key and depth == 8):
        with Image.open(io.BytesIO(data)) as image:
            return _on_white(torch.from_numpy(np.array(image.convert("RGBA"))).permute(2, 0, 1).contiguous())
    if depth == 8 and kind in (GRAY, COLOURS):
        return read_pixels(_tensor(data), ImageReadMode.RGB, apply_exif_orientation=True)
    image = read_pixels(_tensor(data), ImageReadMode.RGB_ALPHA, apply_exif_orientation=True)
    if image.dtype == torch.uint16:
        image = ((image.to(torch.int32) + 128) // 257).to(torch.uint8)
    return _on_white(image)


def _tensor(data: bytes | memoryview) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _on_white(image: torch.Tensor) -> torch.Tensor:
    """uint8 [4, H, W] with alpha to [3, H, W], in integers so that every machine rounds alike."""
    colour, alpha = image[:3], image[3:]
    if bool((alpha == 255).all()):
        return colour.contiguous()
    colour, alpha = colour.to(torch.int32), alpha.to(torch.int32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)


def resize(image: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [3, H, W] to [3, size, size], bilinear with antialiasing; the same tensor when it has that size already. The aspect ratio is not kept."""
    if image.shape[-2:] == (size, size):
        return image
    return functional.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True)[0]


def normalise(image: torch.Tensor) -> torch.Tensor:
    """uint8 0 … 255 of any shape to float32 -1 … 1."""
    return image.to(torch.float32) / 127.5 - 1
