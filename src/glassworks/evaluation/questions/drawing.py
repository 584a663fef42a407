"""Points and boxes drawn on an image."""

from collections.abc import Iterable
from io import BytesIO

from PIL import Image, ImageDraw

from glassworks.data.points import Box, Point

POINT, BOX = (230, 0, 120), (0, 150, 70)


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
