"""Images from bytes to tensors: decoding, resizing and scaling. Nothing here is random; augmentation belongs to a task."""

import io
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional
from torch.utils.data import default_collate

from glassworks.data.reading.dataset import Sample
from glassworks.errors import DataError

EXTENSIONS = ("bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp")
"""Extensions of the members of a sample that are images."""
JPEG, PNG, WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", re.compile(rb"RIFF....WEBP", re.DOTALL)
ALPHA = 4
"""The bit of a PNG's colour type for an alpha channel."""
RGB, RGBA = 3, 4
"""Values of torchvision.io.ImageReadMode."""

# The operators of torchvision.io without its package, whose models and detection operators take a second to import.
_package = find_spec("torchvision")
assert _package and _package.submodule_search_locations
torch.ops.load_library(Path(_package.submodule_search_locations[0]) / "image.so")


def decode_image(data: bytes | memoryview, where: str) -> torch.Tensor:
    """The image as uint8 [3, H, W], with EXIF orientation applied, gray expanded to RGB and alpha blended over white.

    torchvision decodes JPEG, PNG and WebP. Pillow decodes other formats, and the first frame of a GIF. Raises `DataError`
    beginning with `where` (shard and sample) when the bytes do not decode.
    """
    if not len(data):
        raise DataError(f"{where}: the image is empty")
    try:
        return _decode(data)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise almost anything on broken bytes
        reason = re.sub(r"^.*\.cpp:\d+, | ?<_io.*?>", "", str(error).partition("\n")[0]) or type(error).__name__
        raise DataError(f"{where}: the image does not decode: {reason}") from None


def _decode(data: bytes | memoryview) -> torch.Tensor:
    head = bytes(data[:26])
    if head.startswith(JPEG):
        return _read(data, RGB)
    if WEBP.match(head):
        return _on_white(_read(data, RGBA, turn=False))
    if head.startswith(PNG) and len(head) == 26:
        depth, kind = head[24], head[25]
        # With RGB_ALPHA, torchvision 0.27 reads uninitialised memory for a palette, and ignores tRNS without one.
        # So RGB_ALPHA is used only with an alpha channel. Pillow would clip 16-bit images.
        if kind & ALPHA:
            return _on_white(_to_8_bits(_read(data, RGBA)))
        if depth == 16 or not _has_transparent_colour(data):
            return _to_8_bits(_read(data, RGB))
    with Image.open(io.BytesIO(data)) as opened:
        pixels = np.array(ImageOps.exif_transpose(opened).convert("RGBA"))
    return _on_white(torch.from_numpy(pixels).permute(2, 0, 1))


def _has_transparent_colour(data: bytes | memoryview) -> bool:
    """Whether a PNG has a tRNS chunk, which precedes the pixels."""
    content = bytes(data)
    return content.find(b"tRNS", 0, max(content.find(b"IDAT"), 0)) >= 0


def _read(data: bytes | memoryview, channels: int, turn: bool = True) -> torch.Tensor:
    """torchvision.io.decode_image; `turn` applies the EXIF orientation."""
    pixels: torch.Tensor = torch.ops.image.decode_image(
        torch.frombuffer(bytearray(data), dtype=torch.uint8), channels, turn
    )
    return pixels


def _to_8_bits(image: torch.Tensor) -> torch.Tensor:
    """uint16 0 … 65535 rounded to uint8 0 … 255; uint8 is returned unchanged."""
    if image.dtype == torch.uint8:
        return image
    return ((image.to(torch.int32) + 128) // 257).to(torch.uint8)


def _on_white(image: torch.Tensor) -> torch.Tensor:
    """uint8 [4, H, W] with alpha blended over white to [3, H, W], in integer arithmetic: every machine rounds alike."""
    colour, alpha = image[:3], image[3:]
    if bool((alpha == 255).all()):
        return colour
    colour, alpha = colour.to(torch.int32), alpha.to(torch.int32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)


def image_of(sample: Sample, size: int) -> torch.Tensor:
    """The image of a sample as uint8 [3, size, size]; a `DataError` when it has none."""
    extension = next((name for name in EXTENSIONS if name in sample.members), None)
    if extension is None:
        raise DataError(f"{sample.where}: no image among its members {sorted(sample.members)}")
    return resize(decode_image(sample.members[extension], sample.where), size)


def resize(image: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [3, H, W] to [3, size, size], bilinear with antialiasing. Does not keep the aspect ratio.

    Returns the same tensor when it already has that size.
    """
    if image.shape[-2:] == (size, size):
        return image
    return functional.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True)[0]


def stack_images(images: list[torch.Tensor]) -> torch.Tensor:
    """uint8 [3, H, W] each to [B, 3, H, W], channels last in memory, as decoders write pixels.

    A loader worker collates straight into shared memory. `torch.stack` would transpose and copy once more.
    """
    stacked: torch.Tensor = default_collate([image.permute(1, 2, 0) for image in images])
    return stacked.permute(0, 3, 1, 2)


def normalise(image: torch.Tensor) -> torch.Tensor:
    """uint8 0 … 255 of any shape to float32 -1 … 1, contiguous: the layout of images in memory changes gradients in the last bit."""
    return image.to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1
