"""What a file is by its first bytes: the content decides, and its name does not."""

import re

IMAGES = {
    "jpg": ("JPEG", re.compile(rb"\xff\xd8\xff")),
    "png": ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    "webp": ("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    "gif": ("GIF", re.compile(rb"GIF8[79]a")),
    "tif": ("TIFF", re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+")),
    "bmp": ("BMP", re.compile(rb"BM")),
    "avif": ("AVIF", re.compile(rb"....ftyp(avif|avis)", re.DOTALL)),
    "heic": ("HEIC", re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)),
    "jxl": ("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ")),
    "jp2": ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
    "psd": ("Photoshop", re.compile(rb"8BPS")),
}
OTHERS = (
    ("metadata of macOS (AppleDouble)", re.compile(rb"\0\x05\x16\x07")),
    ("a git-lfs pointer: run `git lfs pull`", re.compile(rb"version https://git-lfs")),
    ("a web page, perhaps an error of a download", re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE)),
    ("an SVG drawing", re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<svg", re.DOTALL | re.IGNORECASE)),
    ("XML, perhaps an error of a download", re.compile(rb"\s*<\?xml", re.IGNORECASE)),
    ("JSON, perhaps an error of a download", re.compile(rb"\s*[{\[]")),
    ("a PDF", re.compile(rb"%PDF")),
    ("a parquet file", re.compile(rb"PAR1")),
    ("a zip archive or an Excel or Word file", re.compile(rb"PK\x03\x04")),
    ("compressed with gzip", re.compile(rb"\x1f\x8b")),
    ("compressed with bzip2", re.compile(rb"BZh")),
    ("compressed with xz", re.compile(rb"\xfd7zXZ")),
    ("compressed with zstd", re.compile(rb"\x28\xb5\x2f\xfd")),
    ("an old Excel or Word file", re.compile(rb"\xd0\xcf\x11\xe0")),
    ("a video", re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL)),
    ("a file of zero bytes only", re.compile(rb"\0{8}")),
)
UNREAD = ("heic", "jxl", "jp2", "psd")
"""Image formats that are not read."""
HEAD = 512
"""Bytes that tell the kind."""


def image_extension(content: bytes | memoryview) -> str | None:
    """The extension of an image format by its content; None for anything else."""
    head = bytes(content[:HEAD])
    return next((extension for extension, (_, pattern) in IMAGES.items() if pattern.match(head)), None)


def describe(content: bytes | memoryview) -> str | None:
    """A file's kind in words, such as 'an AVIF image'; None if the first bytes are of no known kind."""
    head = bytes(content[:HEAD])
    if extension := image_extension(head):
        name = IMAGES[extension][0]
        return f"{'an' if name[0] == 'A' else 'a'} {name} image{'; convert it to JPEG' if extension in UNREAD else ''}"
    return next((words for words, pattern in OTHERS if pattern.match(head)), None)
