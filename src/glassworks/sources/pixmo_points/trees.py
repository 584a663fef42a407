"""Message trees of points and counts about downloaded images, for the sources `pixmo_points` and `pixmo_count`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from glassworks.data.messages import Medium, Size
from glassworks.data.points import Point, write_points
from glassworks.data.question_trees import question_tree
from glassworks.data.records import Dropped, Record
from glassworks.data.remote_images import RemoteImage, TableRow
from glassworks.data.scenes.layout import Dice
from glassworks.data.texts import UnusableText, clean_text
from glassworks.pipeline.execution import Context

WORDINGS: dict[str, tuple[str, ...]] = {
    "where": (
        "point to {label}.",
        "where in the picture: {label}?",
        "show me {label}.",
        "mark each of these: {label}.",
    ),
    "how many": ("how many {label} are there?", "count {label}.", "what is the number of {label}?"),
    "point and count": ("point to {label} and count.", "mark and count {label}.", "how many {label}? point to each."),
}
"""Wordings of each kind of question."""
NONE = "There are none."
"""The answer to a question for points where the image has none."""


class Unusable(ValueError):
    """A row that cannot be used. `str(error)` is the reason."""


@dataclass(frozen=True)
class Annotation:
    """What a row says about an image."""

    label: str
    count: int
    points: list[Point] | None
    """In percent; None if they were not published."""


def trees(image: RemoteImage, context: Context) -> Iterator[Record | Dropped]:
    """The records of an image, and its rows that cannot be used."""
    params = context.params
    branches: list[tuple[str, Annotation, str]] = []
    """Kind, annotation and answer of each question."""
    sizes: list[int] = []
    for row in image.rows:
        try:
            found = annotation(row, params["units"], (image.facts.width, image.facts.height))
            asked = [(kind, found, answer_to(kind, found)) for kind in params["questions"] if askable(kind, found)]
            if not asked:
                raise Unusable("no points are published, and no question can do without")
            size = sum(1 + (len(found.points or ()) if kind != "how many" else 0) for kind, *_ in asked)
            if size > params["tree_size"]:
                raise Unusable(f"more points than a message tree may hold: {found.count:,}")
        except Unusable as fault:
            yield Dropped(f"{row.where} ({row.url})", str(fault))
            continue
        sizes += [size, *[0] * (len(asked) - 1)]
        branches += asked
    for number, part in enumerate(_cut(sizes, params["tree_size"])):
        yield _record(image, number, branches[part.start : part.stop], params["seed"])


def annotation(row: TableRow, units: str, size: tuple[int, int]) -> Annotation:
    """The annotation of a row; `size` is that of the image in pixels. Raises `Unusable`."""
    label, count, given = (row.value[name] for name in ("label", "count", "points"))
    try:
        label = clean_text(label).lower()
    except UnusableText as fault:
        raise Unusable(str(fault).replace("caption", "label")) from None
    if set(label) & set('"<>'):
        raise Unusable(f'the label holds ", < or >, which end a tag: {label[:80]!r}')
    if not isinstance(count, int) or count < 0:
        raise Unusable(f"no count (found: {count!r})")
    points = _points(given)
    if not points:
        return Annotation(label, count, None if count else [])
    if len(points) != count:
        raise Unusable(f"another count than points: {count:,} and {len(points):,}")
    if units == "pixels":
        points = [(100 * x / size[0], 100 * y / size[1]) for x, y in points]
    for x, y in points:
        if not (0 <= x <= 100 and 0 <= y <= 100):
            raise Unusable(f"a point lies outside the picture: {x:g}, {y:g} in percent")
    return Annotation(label, count, points)


def askable(kind: str, found: Annotation) -> bool:
    """Whether a question of a kind has an answer: one for points needs them."""
    return kind == "how many" or found.points is not None


def answer_to(kind: str, found: Annotation) -> str:
    """The answer in Molmo's form, such as `<point x="12.5" y="80.0" alt="cat">cat</point>`, or the number."""
    if kind == "how many":
        return str(found.count)
    if not found.points:
        return NONE
    points = write_points(found.points, found.label)
    return points if kind == "where" else f"Counting the {points} shows a total of {found.count}."


def _points(given: Any) -> list[Point]:
    """Points from a list of {x, y}, or from {x: list, y: list}, as Arrow stores a sequence of them. Raises `Unusable`."""
    try:
        if isinstance(given, dict):
            return [(float(x), float(y)) for x, y in zip(given["x"] or [], given["y"] or [], strict=True)]
        return [(float(point["x"]), float(point["y"])) for point in given or []]
    except (KeyError, TypeError, ValueError):
        raise Unusable(f"points are no list of x and y (found: {given!r:.80})") from None


def _cut(sizes: Sequence[int], most: int) -> Iterator[range]:
    """Consecutive parts of the questions. A row's questions are not separated: only its first one has a size."""
    start, total = 0, 0
    for number, size in enumerate(sizes):
        if size and total + size > most:
            yield range(start, number)
            start, total = number, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def _record(image: RemoteImage, number: int, part: Sequence[tuple[str, Annotation, str]], seed: int) -> Record:
    key, member = image.key + (f"-{number}" if number else ""), image.facts.extension
    texts = [
        Dice(seed, "wording", image.key, kind, found.label).choose(WORDINGS[kind]).replace("{label}", found.label)
        for kind, found, _ in part
    ]
    answers = [answer for *_, answer in part]
    return Record(
        key,
        image.split,
        image.group,
        labels={
            "image_url": image.rows[0].url,
            "questions": [
                {"kind": kind, "answer": answer, "object": found.label, "number": found.count}
                for kind, found, answer in part
            ],
        },
        media={"place": list(image.place)},
        messages=question_tree(Medium(type="image", media=member), zip(texts, answers, strict=True)),
        sizes={member: Size(kind="image", width=image.facts.width, height=image.facts.height)},
    )
