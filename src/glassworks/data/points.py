"""Points in texts: written in Molmo's form, parsed from that and from plain forms, and scored against boxes.

Coordinates are percent of the width and of the height, from the upper left corner. The canonical form has one decimal
or none and, for several points, ascending x, then y:

    <point x="61.2" y="40.1" alt="cat">cat</point>
    <points x1="12.5" y1="80.0" x2="61.2" y2="40.1" alt="cats">cats</points>
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import dist

from glassworks.errors import DataError

Point = tuple[float, float]
"""x and y in percent."""
Box = Sequence[float]
"""x0, y0, x1, y1 in pixels; x1 and y1 are one past the last."""

NUMBER = r"(-?\d+(?:\.\d+)?)"
TAG = re.compile(r"<points?\b([^>]*)", re.IGNORECASE)
COORDINATE = re.compile(rf"""\b([xy])(\d*)\s*=\s*["']\s*{NUMBER}\s*%?\s*["']""", re.IGNORECASE)
PLAIN = re.compile(rf"[(\[]\s*(?:x\s*[=:]\s*)?{NUMBER}\s*%?\s*[,;]\s*(?:y\s*[=:]\s*)?{NUMBER}\s*%?\s*[)\]]")


def write_points(points: Iterable[Point], name: str, decimals: int = 1) -> str:
    """The canonical form of at least one point on objects called `name`, with so many decimals.

    Raises `DataError` for a name with a quotation mark or an angle bracket, and for a coordinate outside 0 to 100.
    """
    if set(name) & set('"<>'):
        raise DataError(f'points: the name {name!r} holds ", < or >, which end a tag')
    rounded = sorted((_checked(round(x, decimals), "x"), _checked(round(y, decimals), "y")) for x, y in points)
    assert rounded, "at least one point"
    if len(rounded) == 1:
        [(x, y)] = rounded
        return f'<point x="{x:.{decimals}f}" y="{y:.{decimals}f}" alt="{name}">{name}</point>'
    places = " ".join(
        f'x{number}="{x:.{decimals}f}" y{number}="{y:.{decimals}f}"' for number, (x, y) in enumerate(rounded, start=1)
    )
    return f'<points {places} alt="{name}">{name}</points>'


def parse_points(text: str) -> list[Point]:
    """The points of a text in its order: those of all tags or, without a tag, the plain pairs `(61.2, 40.1)`.

    A tag may lack its end. A text without points gives []. Raises `DataError` for a coordinate outside 0 to 100 and for
    an x without its y.
    """
    tags = TAG.findall(text)
    if not tags:
        return [(_checked(float(x), "x"), _checked(float(y), "y")) for x, y in PLAIN.findall(text)]
    points = []
    for attributes in tags:
        found: dict[str, dict[str, float]] = {"x": {}, "y": {}}
        for axis, number, value in COORDINATE.findall(attributes):
            found[axis.lower()][number] = _checked(float(value), f"{axis.lower()}{number}")
        for axis, other in ("xy", "yx"):
            for number in found[axis]:
                if number not in found[other]:
                    raise DataError(f"points: {axis}{number} has no {other}{number}")
        points += [(x, found["y"][number]) for number, x in found["x"].items()]
    return points


def centre(box: Box, size: tuple[int, int]) -> Point:
    """The middle of a box on a picture of `size` (width, height), in percent."""
    x0, y0, x1, y1 = box
    return 50 * (x0 + x1) / size[0], 50 * (y0 + y1) / size[1]


def contains(box: Box, point: Point, size: tuple[int, int]) -> bool:
    """Whether a point lies in a box, its edges included, on a picture of `size` (width, height)."""
    x0, y0, x1, y1 = box
    return 100 * x0 <= point[0] * size[0] <= 100 * x1 and 100 * y0 <= point[1] * size[1] <= 100 * y1


@dataclass(frozen=True)
class PointScore:
    """Points of one answer against the boxes of the objects that were asked for."""

    precision: float
    """Share of the points that lie in a box of their own. A second point in a box counts as outside. 0 without points."""
    recall: float
    """Share of the boxes with a point."""
    distance: float | None
    """Distance from the middle of a box to the nearest point, in percent of the side of the picture, in the mean over the boxes. None without points."""

    @property
    def exact(self) -> bool:
        """Whether every box has its point, and no point is left over."""
        return self.precision == self.recall == 1


def score_points(points: Sequence[Point], boxes: Sequence[Box], size: tuple[int, int]) -> PointScore:
    """Score points against disjoint boxes, at least one, on a picture of `size` (width, height)."""
    hit = sum(any(contains(box, point, size) for point in points) for box in boxes)
    if not points:
        return PointScore(0.0, 0.0, None)
    distances = [min(dist(centre(box, size), point) for point in points) for box in boxes]
    return PointScore(hit / len(points), hit / len(boxes), sum(distances) / len(boxes))


def _checked(value: float, name: str) -> float:
    if not 0 <= value <= 100:
        raise DataError(f"points: {name} is {value:g}, outside 0 to 100; coordinates are percent of the picture")
    return value
