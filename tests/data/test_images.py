"""Whatever the file's format, an image is uint8 RGB as a person sees it, or one line that names shard and sample."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from glassworks.data.file_kinds import image_extension
from glassworks.data.reading.images import decode_image, normalise, resize, stack_images
from glassworks.data.reading.pixels import EXTENSIONS, FORMATS, image_member, read_image
from glassworks.errors import DataError

from .image_zoo import png_of, tiff_gray, zoo
from .small_shards import picture

ZOO = dict(zoo())


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

    scaled = palette[values[..., 0]] if kind == 3 else values * 255 // (2**depth - 1)
    scaled = values >> 8 if depth == 16 else scaled
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
        DataError, match=r"^train-00000\.tar: sample 'k': (the image (is empty|does not decode: \S)|it is no image)"
    ) as info:
        decode_image(data[: int(len(data) * keep)], "train-00000.tar: sample 'k'")
    assert len(str(info.value).splitlines()) == 1 and ".cpp" not in str(info.value) and "0x" not in str(info.value)


def test_bytes_of_something_else_are_refused():
    with pytest.raises(DataError, match="it is a web page"):
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


def test_the_member_of_every_format_is_an_extension_of_images():
    assert set(FORMATS.values()) <= set(EXTENSIONS)
    for kind, extension in FORMATS.items():
        assert image_extension(picture(1, kind=kind)) == extension


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (["json", "png"], "png"),
        (["gif", "jpg", "txt"], "jpg"),
        (["input.jpg", "json"], "input.jpg"),
        (["depth.png", "jpg"], "jpg"),
    ],
)
def test_one_member_of_a_sample_is_its_image(members, expected):
    assert image_member(members, "here") == expected


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (["json", "txt"], r"here: no image \(json, txt\)$"),
        (["1.jpg", "2.jpg"], r"here: 2 images \(1\.jpg, 2\.jpg\) have one key, which ends at the first dot"),
    ],
)
def test_a_sample_without_one_image_is_named(members, reason):
    with pytest.raises(DataError, match=reason):
        image_member(members, "here")


UPRIGHT = (32, 48)
"""Width and height of the zoo's pictures (48 x 32) after a turn by 90 degrees."""


@pytest.mark.parametrize(
    "name",
    [
        "jpeg exif 6",
        "jpeg exif 6 > long=True",
        "jpeg xmp then exif",
        "jpeg xmp orientation",
        "png eXIf 6 before",
        "png eXIf 6 after",
        "webp exif 6",
        "webp animated exif",
        "avif exif",
        "tiff orientation 6",
        "tiff lzw orientation 6",
    ],
)
def test_orientation_is_applied_for_every_format(name):
    image = read_image(ZOO[name], "here")
    assert image.size == UPRIGHT
    dark = [image.getpixel(at)[0] < 60 for at in ((29, 3), (3, 3), (29, 44), (3, 44))]
    assert dark == [True, False, False, False], "the dark upper left corner of the file is at the upper right"


@pytest.mark.parametrize("bits", [12, 16])
def test_the_upper_bits_of_16_bit_tiffs_are_kept(bits):
    values = np.array([[0, 1, 2**bits // 2, 2**bits - 1]], dtype=np.uint16)
    if bits == 16:
        file = tiff_gray(values.astype("<u2").tobytes(), (4, 1), 16)
    else:
        file = tiff_gray(bytes([0x00, 0x00, 0x01, 0x80, 0x0F, 0xFF]), (4, 1), 12)
    assert np.array(read_image(file, "here"))[0, :, 0].tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("name", ["tiff I", "tiff F"])
def test_pixels_without_a_defined_white_are_refused(name):
    with pytest.raises(DataError, match=r"^here: the image has pixels of the kind [IF], whose white is undefined"):
        read_image(ZOO[name], "here")


def test_more_pixels_than_the_limit_are_refused_by_the_header():
    header = struct.pack(">IIBBBBB", 100_000, 90_000, 8, 2, 0, 0, 0)
    bomb = png_of([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")])
    with pytest.raises(DataError, match=r"^here: 100,000 x 90,000 pixels are more than max_pixels \(120,000,000\)"):
        read_image(bomb, "here", 120_000_000)
    assert read_image(ZOO["jpeg RGB progressive=False"], "here", 48 * 32).size == (48, 32)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", ": it is a git-lfs pointer: run `git lfs pull`"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ": it is a HEIC image; convert it to JPEG"),
        (b"<!DOCTYPE html><html>", ": it is a web page, perhaps an error of a download"),
        (b"\xff\x0a\0\0", ": it is a JPEG XL image; convert it to JPEG"),
        (b"words", ""),
    ],
)
def test_a_file_of_another_kind_is_named(head, reason):
    with pytest.raises(DataError, match=f"^here: it is no JPEG, PNG, WebP, AVIF, TIFF, GIF or BMP{reason}$"):
        read_image(head, "here")
