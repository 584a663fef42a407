"""Image files of every kind that cameras, tools and the web produce, and seeded mutations of them."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIZE = (48, 32)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def pattern(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth field of colours with a dark upper left corner: every orientation looks different."""
    random = np.random.default_rng(seed)
    field = Image.fromarray(random.integers(90, 256, (4, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    field.paste((10, 20, 30), (0, 0, size[0] // 2, size[1] // 4))
    return field


def alpha(size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8))


def save(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int, order: str = "<", long: bool = False, further: bool = True) -> bytes:
    """A TIFF block with the tag Orientation, as a SHORT or a LONG, in either byte order."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    tags = [struct.pack(order + "HHI", 0x0112, 4 if long else 3, 1)]
    tags[0] += struct.pack(order + "I", orientation) if long else struct.pack(order + "HH", orientation, 0)
    if further:
        tags.insert(0, struct.pack(order + "HHIHH", 0x0103, 3, 1, 6, 0))
    return head + struct.pack(order + "H", len(tags)) + b"".join(tags) + bytes(4)


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(jpeg: bytes, *segments: bytes) -> bytes:
    """Segments placed after JFIF's."""
    end = 4 + struct.unpack(">H", jpeg[4:6])[0]
    return jpeg[:end] + b"".join(segments) + jpeg[end:]


def exif_segment(block: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + block)


XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description %s/></x:xmpmeta>"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return SIGNATURE + b"".join(chunk(*item) for item in chunks)


def png_with(png: bytes, before: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """Chunks placed before the first chunk of that name."""
    chunks = chunks_of(png)
    at = [name for name, _ in chunks].index(before)
    return png_of([*chunks[:at], *extra, *chunks[at:]])


def small_window(png: bytes) -> bytes:
    """A zlib header that understates its window: Pillow opens it, libpng does not."""
    raw = zlib.decompress(b"".join(content for name, content in chunks_of(png) if name == b"IDAT"))
    packed = bytearray(zlib.compress(raw))
    packed[0] = 0x18  # 512 bytes of 32,768
    packed[1] = (packed[1] & 0xC0) + 31 - (packed[0] * 256 + (packed[1] & 0xC0)) % 31
    return png_of([chunks_of(png)[0], (b"IDAT", bytes(packed)), (b"IEND", b"")])


def bad_crc(png: bytes) -> bytes:
    at = png.index(b"IEND") - 8
    return png[:at] + bytes([png[at] ^ 0xFF]) + png[at + 1 :]


def tiff_gray(data: bytes, size: tuple[int, int], bits: int, order: str = "<") -> bytes:
    """An uncompressed gray TIFF."""
    width, height = size
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1),
        (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data)),
    ]  # fmt: skip
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    block = struct.pack(order + "H", len(entries))
    for tag, kind, value in entries:
        packed = struct.pack(order + "I", value) if kind == 4 else struct.pack(order + "HH", value, 0)
        block += struct.pack(order + "HHI", tag, kind, 1) + packed
    return head + data + block + bytes(4)


def zoo() -> Iterator[tuple[str, bytes]]:
    """Name and content of every file. Pillow opens all of them."""
    image, transparent = pattern(), pattern()
    transparent.putalpha(alpha())
    gray16 = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0]).astype(np.uint16)
    plain = save(image, "JPEG", quality=90)
    for mode in ("RGB", "L", "CMYK"):
        for progressive in (False, True):
            yield f"jpeg {mode} progressive={progressive}", save(image.convert(mode), "JPEG", progressive=progressive)
    for subsampling in range(3):
        for size in (SIZE, (17, 9), (1, 1), (200, 120)):
            for progressive in (False, True):
                yield (
                    f"jpeg 4:{subsampling} {size} progressive={progressive}",
                    save(pattern(1, size), "JPEG", subsampling=subsampling, progressive=progressive, quality=60),
                )
    yield "jpeg restarts", save(image, "JPEG", restart_marker_blocks=2)
    yield "jpeg keep_rgb", save(image, "JPEG", keep_rgb=True)
    yield "jpeg icc", save(image, "JPEG", icc_profile=bytes(600))
    yield "jpeg comment", save(image, "JPEG", comment=b"hello")
    yield "jpeg trailing bytes", plain + bytes(900)
    yield "jpeg zeroed block", plain[:-120] + bytes(60) + plain[-60:]
    yield "jpeg adobe", jpeg_with(plain, segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01"))
    yield "jpeg adobe rgb", jpeg_with(plain, segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"))
    for orientation in range(10):
        yield f"jpeg exif {orientation}", jpeg_with(plain, exif_segment(exif(orientation)))
    for order in "<>":
        for long in (False, True):
            yield f"jpeg exif 6 {order} long={long}", jpeg_with(plain, exif_segment(exif(6, order, long)))
    yield "jpeg xmp then exif", jpeg_with(plain, segment(0xE1, XMP % b"a='b'"), exif_segment(exif(6)))
    yield "jpeg exif then xmp", jpeg_with(plain, exif_segment(exif(8)), segment(0xE1, XMP % b'tiff:Orientation="3"'))
    yield "jpeg xmp orientation", jpeg_with(plain, segment(0xE1, XMP % b'tiff:Orientation="6"'))
    yield "jpeg exif damaged", jpeg_with(plain, exif_segment(b"II*\0\xff\xff\xff\xff"))
    yield "jpeg exif empty", jpeg_with(plain, exif_segment(b""))
    yield "mpo", save(image, "MPO", save_all=True, append_images=[pattern(2)])

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        source = transparent if mode in ("LA", "RGBA") else image
        yield f"png {mode}", save(source.convert(mode), "PNG")
    rgb, gray, palette = (save(image.convert(mode), "PNG") for mode in ("RGB", "L", "P"))
    yield "png I;16", save(Image.fromarray(gray16), "PNG")
    yield "png I;16 transparent", png_with(save(Image.fromarray(gray16), "PNG"), b"IDAT", (b"tRNS", b"\xff\xff"))
    yield "png L transparent", png_with(gray, b"IDAT", (b"tRNS", b"\0\x12"))
    yield "png RGB transparent", png_with(rgb, b"IDAT", (b"tRNS", struct.pack(">3H", 10, 20, 30)))
    yield "png P transparent", png_with(palette, b"IDAT", (b"tRNS", bytes(range(200))))
    yield "png several IDAT", png_of(split_idat(rgb))
    for orientation in (3, 6, 8):
        yield f"png eXIf {orientation} before", png_with(rgb, b"IDAT", (b"eXIf", exif(orientation)))
        yield f"png eXIf {orientation} after", png_with(rgb, b"IEND", (b"eXIf", exif(orientation, ">")))
    yield "png P eXIf", png_with(palette, b"IEND", (b"eXIf", exif(5)))
    yield "png text", png_with(rgb, b"IDAT", (b"tEXt", b"a\0b"), (b"gAMA", struct.pack(">I", 100000)))
    yield "png gamma", png_with(rgb, b"IDAT", (b"gAMA", struct.pack(">I", 45455)), (b"sRGB", b"\0"))
    yield "png small window", small_window(rgb)
    yield "png bad crc", bad_crc(rgb)
    yield "png animated", save(image, "PNG", save_all=True, append_images=[pattern(2)], duration=100)
    yield "png large text", png_with(rgb, b"IDAT", (b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000))))

    for lossless in (False, True):
        for source in (image, transparent):
            yield f"webp {source.mode} lossless={lossless}", save(source, "WEBP", lossless=lossless)
    for orientation in (3, 6, 8):
        yield f"webp exif {orientation}", save(image, "WEBP", exif=exif(orientation))
    yield "webp animated", save(image, "WEBP", save_all=True, append_images=[pattern(2)], duration=100)
    yield "webp animated exif", save(image, "WEBP", save_all=True, append_images=[pattern(2)], exif=exif(6))
    yield "avif", save(image, "AVIF")
    yield "avif alpha", save(transparent, "AVIF")
    yield "avif exif", save(image, "AVIF", exif=exif(6))

    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
        yield f"tiff {mode}", save((transparent if mode == "RGBA" else image).convert(mode), "TIFF")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"tiff {compression}", save(image, "TIFF", compression=compression)
    yield "tiff pages", save(image, "TIFF", save_all=True, append_images=[pattern(2)])
    for orientation in (2, 6, 7, 8):
        yield f"tiff orientation {orientation}", save(image, "TIFF", tiffinfo={0x0112: orientation})
        yield (
            f"tiff lzw orientation {orientation}",
            save(image, "TIFF", tiffinfo={0x0112: orientation}, compression="tiff_lzw"),
        )
    for order in "<>":
        yield f"tiff I;16 {order}", tiff_gray(gray16.astype(order + "u2").tobytes(), SIZE, 16, order)
    yield "tiff I", save(Image.fromarray(gray16.astype(np.int32)), "TIFF")
    yield "tiff F", save(Image.fromarray(gray16.astype(np.float32) / 65535), "TIFF")
    yield "gif", save(image, "GIF")
    yield "gif transparent", save(transparent.quantize(64, method=Image.Quantize.FASTOCTREE), "GIF", transparency=3)
    yield "gif animated", save(image, "GIF", save_all=True, append_images=[pattern(2)])
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp {mode}", save((transparent if mode == "RGBA" else image).convert(mode), "BMP")


def split_idat(png: bytes) -> list[tuple[bytes, bytes]]:
    head, (_, data), end = chunks_of(png)
    parts = [data[start : start + 100] for start in range(0, len(data), 100)]
    return [head, *((b"IDAT", part) for part in parts), end]


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """A damaged copy: bytes changed, zeroed, cut, inserted, removed or repeated, the header more often than the rest."""
    size = len(data)
    end = size if random.random() < 0.6 else min(size, 200)
    at = int(random.integers(end))
    length = int(min(size - at, 2 ** random.integers(0, 7)))
    match int(random.integers(8)):
        case 0 | 1:
            changed = bytearray(data)
            for place in random.integers(0, end, int(random.integers(1, 4))):
                changed[place] = random.integers(256)
            damaged = bytes(changed)
        case 2:
            changed = bytearray(data)
            changed[at] ^= 1 << random.integers(8)
            damaged = bytes(changed)
        case 3:
            damaged = data[:at] + bytes(length) + data[at + length :]
        case 4:
            damaged = data[: int(random.integers(size))]
        case 5:
            damaged = data[:at] + random.bytes(length) + data[at:]
        case 6:
            damaged = data[:at] + data[at + length :]
        case _:
            damaged = data[:at] + data[at : at + length] * 2 + data[at + length :]
    return repaired(damaged) if damaged.startswith(SIGNATURE) and random.random() < 0.5 else damaged


def repaired(png: bytes) -> bytes:
    """The same chunks with right checksums, so that a damage goes deeper than the checksum."""
    out, at = bytearray(png), 8
    while at + 12 <= len(out):
        (length,) = struct.unpack(">I", out[at : at + 4])
        if at + 12 + length > len(out):
            break
        out[at + 8 + length : at + 12 + length] = struct.pack(">I", zlib.crc32(out[at + 4 : at + 8 + length]))
        at += 12 + length
    return bytes(out)
