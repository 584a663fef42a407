"""Whatever the file's format, an image is uint8 RGB as a person sees it, or one line that names shard and sample."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from glassworks.data.reading.images import EXTENSIONS, decode_image, normalise, resize, stack_images
from glassworks.errors import DataError

from .small_shards import picture


def as_pillow_sees_it(data: bytes) -> np.ndarray:
    """RGB over white, [3, H, W]."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.array(ImageOps.exif_transpose(image).convert("RGBA")).astype(int)
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).transpose(2, 0, 1)


def formats():
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        yield f"PNG {mode}", picture(1, mode=mode)
    yield "PNG P 4 bits", picture(1, mode="P", bits=4)
    yield "PNG P transparent", picture(1, mode="P", transparency=7)
    yield "PNG L transparent", picture(1, mode="L", transparency=100)
    yield "PNG RGB transparent", picture(1, mode="RGB", transparency=(1, 2, 3))
    for mode in ("RGB", "L"):
        yield f"JPEG {mode}", picture(2, kind="JPEG", mode=mode)
    for mode in ("RGB", "RGBA", "L"):
        yield f"WEBP {mode}", picture(3, kind="WEBP", mode=mode, lossless=True)
    yield "BMP", picture(4, kind="BMP")
    yield "GIF", picture(4, kind="GIF", mode="P")
    yield "TIFF", picture(4, kind="TIFF")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    yield "JPEG turned", picture(5, kind="JPEG", exif=exif)
    yield "PNG turned", picture(5, exif=exif)


@pytest.mark.parametrize(("name", "data"), list(formats()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_format_decodes_as_it_looks(name, data):
    image = decode_image(memoryview(data), "here")
    expected = as_pillow_sees_it(data)
    assert image.dtype == torch.uint8
    assert image.shape == expected.shape
    assert np.abs(image.numpy().astype(int) - expected).max() <= (1 if "JPEG" in name else 0)


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [
    (0, 1),
    (0, 2),
    (0, 4),
    (0, 8),
    (0, 16),
    (2, 8),
    (2, 16),
    (3, 1),
    (3, 2),
    (3, 4),
    (3, 8),
    (4, 8),
    (4, 16),
    (6, 8),
    (6, 16),
]


@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_every_kind_of_png_decodes_to_its_values(kind, depth):
    """Written here, since Pillow writes only some; read several times, since a decoder once showed stray memory."""
    random = np.random.default_rng(depth)
    values, palette = random.integers(0, 2**depth, (9, 13, CHANNELS[kind])), random.integers(0, 256, (2**depth, 3))
    bits = (values.reshape(9, -1, 1) >> np.arange(depth)[::-1] & 1).reshape(9, -1).astype(np.uint8)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 13, 9, depth, kind, 0, 0, 0))]
    chunks += [(b"PLTE", palette.astype(np.uint8).tobytes())] if kind == 3 else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    scaled = palette[values[..., 0]] if kind == 3 else (values * 255 + (2**depth - 1) // 2) // (2**depth - 1)
    colour, alpha = (scaled[..., :-1], scaled[..., -1:]) if kind in (4, 6) else (scaled, 255)
    expected = np.broadcast_to((colour * alpha + 255 * (255 - alpha) + 127) // 255, (9, 13, 3)).transpose(2, 0, 1)
    for _ in range(3):
        assert (decode_image(data, "here").numpy() == expected).all()


def test_cmyk_is_converted():
    red = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(red, "JPEG")
    assert decode_image(red.getvalue(), "here")[:, 4, 4].tolist() == pytest.approx([255, 0, 0], abs=4)


def test_transparent_parts_lie_on_white():
    file = io.BytesIO()
    Image.fromarray(np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], dtype=np.uint8)).save(file, "PNG")
    assert decode_image(file.getvalue(), "here")[:, 0].T.tolist() == [[255, 255, 255], [10, 20, 30], [204, 204, 204]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.9])
def test_a_cut_image_is_named(kind, keep):
    data = picture(6, (64, 64), kind)
    with pytest.raises(
        DataError, match=r"^train-00000\.tar: sample 'k': the image (is empty|does not decode: \S)"
    ) as info:
        decode_image(data[: int(len(data) * keep)], "train-00000.tar: sample 'k'")
    assert len(str(info.value).splitlines()) == 1 and ".cpp" not in str(info.value) and "0x" not in str(info.value)


def test_bytes_of_something_else_are_refused():
    with pytest.raises(DataError, match="does not decode"):
        decode_image(b"<html>not found</html>", "here")


def test_resizing_is_antialiased_and_leaves_the_right_size_alone():
    image = decode_image(picture(7, (64, 48)), "here")
    small = resize(image, 8)
    with Image.open(io.BytesIO(picture(7, (64, 48)))) as reference:
        expected = np.array(reference.resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert small.dtype == torch.uint8 and small.shape == (3, 8, 8)
    assert np.abs(small.numpy().astype(int) - expected).max() <= 1
    assert resize(small, 8) is small


def test_normalised_values_are_between_minus_one_and_one():
    assert normalise(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_images_are_stacked_whatever_their_layout():
    images = [decode_image(picture(i, kind=kind), "here") for i, kind in enumerate(("PNG", "JPEG", "GIF"))]
    images.append(images[0].contiguous())
    stacked = stack_images(images)
    assert (stacked.dtype, stacked.shape) == (torch.uint8, (4, 3, 16, 24))
    assert torch.equal(stacked, torch.stack(images))


def test_extensions_are_those_of_formats_that_decode():
    assert set(EXTENSIONS) == {"bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"}
