"""The one decoder of images: bytes to 8-bit RGB as a viewer shows them, or one line that says why not.

`records` decides with `read_image`. Training decodes with it too, so an image that `records` accepts never fails later.
docs/reference/images.md states the rules. Torch is not imported here: it would double the memory of `records`.
"""

import io
import re
import warnings
from collections.abc import Iterable

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from glassworks.data.file_kinds import describe, image_extension
from glassworks.errors import DataError

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "AVIF": "avif", "TIFF": "tif", "GIF": "gif", "BMP": "bmp"}
"""Formats that are read, detected from the content, and the extension of their shard member."""
EXTENSIONS = ("jpg", "jpeg", "png", "webp", "avif", "tif", "tiff", "gif", "bmp")
"""Extensions of the members of a sample that are images, the preferred ones first."""
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes with 8 bits per channel or fewer that have a defined white."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by the value of EXIF's tag Orientation."""
Image.MAX_IMAGE_PIXELS = None  # `max_pixels` replaces Pillow's limit, whose warning names no file
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # on metadata, and they name no file either


def read_image(data: bytes | memoryview, where: str, max_pixels: int | None = None) -> Image.Image:
    """The image in Pillow's mode RGB, upright, alpha blended over white; the first frame of an animation.

    Raises `DataError` beginning with `where` for bytes that do not decode, for pixels without a defined white, and for
    more than `max_pixels` pixels by the header. None sets no limit: `records` has applied it to the images of shards.
    """
    if not len(data):
        raise DataError(f"{where}: the image is empty")
    try:
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as opened:
            width, height = opened.size
            if max_pixels is not None and width * height > max_pixels:
                raise DataError(f"{where}: {width:,} x {height:,} pixels are more than max_pixels ({max_pixels:,})")
            opened.load()
            orientation = _orientation(opened)
            image = to_rgb(opened, where)
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DataError(f"{where}: {_unidentified(bytes(data[:1024]))}") from None
    except Exception as error:  # decoders raise almost anything on broken bytes
        raise DataError(f"{where}: the image does not decode: {first_line(error)}") from None
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def image_member(members: Iterable[str], where: str) -> str:
    """The extension of the image among the members of a sample: the first of `EXTENSIONS`, else the one KEY.NAME.jpg.

    Raises `DataError` beginning with `where` when there is none, or several KEY.NAME.jpg.
    """
    members = list(members)
    plain = next((extension for extension in EXTENSIONS if extension in members), None)
    if plain is not None:
        return plain
    dotted = [member for member in members if member.rpartition(".")[2] in EXTENSIONS]
    if not dotted:
        raise DataError(f"{where}: no image ({', '.join(sorted(members))})")
    if len(dotted) > 1:
        raise DataError(
            f"{where}: {len(dotted)} images ({', '.join(dotted)}) have one key, which ends at the first dot of the name"
        )
    return dotted[0]


def _unidentified(head: bytes) -> str:
    if image_extension(head) in FORMATS.values():
        return "the image does not decode: its header is damaged"
    kind = describe(head)
    return f"it is no JPEG, PNG, WebP, AVIF, TIFF, GIF or BMP{f': it is {kind}' if kind else ''}"


def _orientation(image: Image.Image) -> object:
    """The value of the tag Orientation in EXIF or XMP. Metadata that cannot be read turn nothing."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """A loaded image in Pillow's mode RGB, alpha blended over white. Raises `DataError` beginning with `where` for pixels without a defined white."""
    if image.mode.startswith("I;16"):
        image = _upper_bits(image)
    if image.mode not in MODES:
        raise DataError(
            f"{where}: the image has pixels of the kind {image.mode}, whose white is undefined; convert it to 8 or 16 bits"
        )
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGB", layer.size, "white")
    white.paste(layer, mask=layer)  # rounds (colour * alpha + 255 * (255 - alpha)) / 255 to the nearest
    return white


def _upper_bits(image: Image.Image) -> Image.Image:
    """The upper 8 bits of gray values of 16 bits, or of 12 in a TIFF. A transparent value becomes alpha."""
    bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]
    values = np.asarray(image)
    gray = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        gray.putalpha(Image.fromarray((values != transparent).astype(np.uint8) * 255))
    return gray


def first_line(error: Exception) -> str:
    """The first line of a message, without addresses of Python objects."""
    return re.sub(r" ?<_io.*?>", "", str(error).partition("\n")[0]) or type(error).__name__
