"""Images as tensors: decoding, resizing and scaling. Nothing here is random; augmentation belongs to a task."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import default_collate

from glassworks.config.tiles import Crops, Tiling
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.pixels import image_member, read_image

# The operators of torchvision.io without its package, whose models and detection operators take a second to import.
_package = find_spec("torchvision")
assert _package and _package.submodule_search_locations
torch.ops.load_library(Path(_package.submodule_search_locations[0]) / "image.so")
RGB = 3
"""A value of torchvision.io.ImageReadMode."""
PLAIN_PNG = re.compile(rb"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR.{8}\x08[\0\x02]\0\0\0.{4}", re.DOTALL)
"""The first 33 bytes of a PNG with 8-bit gray or RGB pixels, not interlaced."""
PLAIN_SEGMENTS = b"\xe0\xdb\xc4\xdd\xfe\xc0\xc2"
"""Markers of JFIF, tables, restart interval, comment, baseline and progressive frames."""


def decode_image(data: bytes | memoryview, where: str) -> torch.Tensor:
    """The image as uint8 [3, H, W], with the pixels and the errors of `read_image`.

    torchvision decodes plain JPEG and PNG files in about half the time, to the same pixels. `read_image` decodes all
    others, and those that torchvision refuses.
    """
    if is_plain(data):
        try:
            pixels: torch.Tensor = torch.ops.image.decode_image(
                torch.frombuffer(bytearray(data), dtype=torch.uint8), RGB, False
            )
            return pixels
        except RuntimeError:
            pass
    return to_tensor(read_image(data, where))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """uint8 [3, H, W] of an image in Pillow's mode RGB, channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def is_plain(data: bytes | memoryview) -> bool:
    """Whether an image is a JPEG or a PNG with 8-bit gray or RGB pixels and without metadata that change its look."""
    if data[:2] == b"\xff\xd8":
        return _is_plain_jpeg(data)
    if not PLAIN_PNG.match(data):
        return False
    at = 33
    while data[at + 4 : at + 8] == b"IDAT":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return at > 33 and data[at : at + 8] == b"\0\0\0\0IEND"


def _is_plain_jpeg(data: bytes | memoryview) -> bool:
    """EXIF and XMP (APP1) may turn an image, and Adobe's segment (APP14) changes its colours: neither is plain."""
    at, channels = 2, 0
    while at + 10 <= len(data) and data[at] == 0xFF and data[at + 1] in PLAIN_SEGMENTS:
        if data[at + 1] in b"\xc0\xc2":
            precision, channels = data[at + 4], data[at + 9]
            if precision != 8 or channels not in (1, 3):
                return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return channels > 0 and data[at : at + 2] == b"\xff\xda"


def image_of(sample: Sample, size: int) -> torch.Tensor:
    """The image of a sample as uint8 [3, size, size]; a `DataError` when it has none."""
    return resize(decode_image(sample.members[image_member(sample.members, sample.where)], sample.where), size)


def resize(image: torch.Tensor, size: int, width: int | None = None) -> torch.Tensor:
    """uint8 [3, H, W] to [3, size, size], or to [3, size, width], bilinear with antialiasing. Does not keep the aspect ratio.

    Returns the same tensor when it already has that size.
    """
    shape = (size, size if width is None else width)
    if image.shape[-2:] == shape:
        return image
    return functional.interpolate(image[None], size=shape, mode="bilinear", antialias=True)[0]


def crops_of(image: torch.Tensor, crops: Crops, tiling: Tiling) -> list[torch.Tensor]:
    """The crops of an image uint8 [3, H, W], each [3, S, S], row by row. The image is resized to all of them, without its aspect ratio."""
    height, width = (count * crops.patch for count in crops.patches(tiling))
    large, step, side = resize(image, height, width), crops.step * crops.patch, crops.side
    corners = [(row * step, column * step) for row in range(tiling.rows) for column in range(tiling.columns)]
    return [large[:, top : top + side, left : left + side] for top, left in corners]


def stack_images(images: list[torch.Tensor]) -> torch.Tensor:
    """uint8 [3, H, W] each to [B, 3, H, W], channels last in memory, as decoders write pixels.

    A loader worker collates straight into shared memory. `torch.stack` would transpose and copy once more.
    """
    stacked: torch.Tensor = default_collate([image.permute(1, 2, 0) for image in images])
    return stacked.permute(0, 3, 1, 2)


def normalise(image: torch.Tensor) -> torch.Tensor:
    """uint8 0 … 255 of any shape to float32 -1 … 1, contiguous: the layout of images in memory changes gradients in the last bit."""
    return image.to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1
