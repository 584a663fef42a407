"""Points and boxes drawn on an image, and the frames of a clip side by side."""

from collections.abc import Iterable, Sequence
from io import BytesIO

from PIL import Image, ImageDraw

from glassworks.data.points import Box, Point

POINT, BOX = (230, 0, 120), (0, 150, 70)
ACROSS, GAP = 8, 2
"""Frames in a row of a film strip, and pixels between them."""


def draw_points(image: Image.Image, points: Iterable[Point], boxes: Iterable[Box] = ()) -> bytes:
    """A PNG of the image with a cross on every point (percent of width and height) and a frame around every box (pixels)."""
    drawn = image.convert("RGB")
    pen, arm = ImageDraw.Draw(drawn), max(3, max(drawn.size) // 36)
    for x0, y0, x1, y1 in boxes:
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=BOX)
    for x, y in points:
        across, down = x * drawn.width / 100, y * drawn.height / 100
        for colour, width in (((255, 255, 255), 4), (POINT, 2)):
            pen.line((across - arm, down, across + arm, down), colour, width)
            pen.line((across, down - arm, across, down + arm), colour, width)
    content = BytesIO()
    drawn.save(content, "PNG")
    return content.getvalue()


def film_strip(frames: Sequence[Image.Image]) -> bytes:
    """A PNG of frames of one size side by side, in rows of up to `ACROSS`."""
    width, height = frames[0].size
    columns, rows = min(len(frames), ACROSS), -(-len(frames) // ACROSS)
    strip = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for number, frame in enumerate(frames):
        strip.paste(frame, (number % ACROSS * (width + GAP), number // ACROSS * (height + GAP)))
    content = BytesIO()
    strip.save(content, "PNG")
    return content.getvalue()


def same_size(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Images of one size, that of the largest sides, each in the middle of a white one."""
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    found = []
    for image in images:
        sheet = Image.new("RGB", (width, height), "white")
        sheet.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        found.append(sheet)
    return found
