"""easy-VQA: one record for each image with a message tree of its questions, from the wheel `easy-vqa`.

Labels: `questions`, for each branch {kind, answer} with the kind `yes or no`, `shape` or `color`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glassworks.config.datasets import Split
from glassworks.data.json_files import parsed
from glassworks.data.messages import Medium, Size
from glassworks.data.question_trees import question_tree
from glassworks.data.reading.pixels import read_image
from glassworks.data.records import Dropped, Record
from glassworks.data.splits import split_of
from glassworks.data.wheel_files import find_wheel, open_wheel, read_member
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

DISTRIBUTION, FOLDER = "easy-vqa", "easy_vqa/data"
EXPECTED = "a list of [question, answer, number of the image]"
ANSWERS = {
    "yes or no": ("yes", "no"),
    "shape": ("circle", "rectangle", "triangle"),
    "color": ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"),
}
KINDS = {answer: kind for kind, answers in ANSWERS.items() for answer in answers}


def records(context: Context) -> Iterator[Record | Dropped]:
    """Every image, those of training first, by number. A question without a known answer is dropped."""
    files = Files(context.inputs["raw"])
    for part in ("train", "test"):
        member = f"{FOLDER}/{part}/questions.json"
        asked: dict[int, list[tuple[str, str]]] = {}
        for place, row in enumerate(_rows(files, member), start=1):
            question, answer, number = row
            if answer in KINDS:
                asked.setdefault(number, []).append((question, answer))
            else:
                yield Dropped(f"{member} row {place}", f"unknown answer: {answer!r}")
        for number, pairs in sorted(asked.items()):
            file = f"{FOLDER}/{part}/images/{number}.png"
            try:
                width, height = read_image(files.read(file), file).size
            except DataError as fault:
                yield Dropped(file, str(fault).removeprefix(f"{file}: "), len(pairs))
                continue
            key = f"{part}-{number:04d}"
            split: Split = "test"
            if part == "train":
                split = split_of(key, {"validation": context.params["validation"], "test": 0}, context.params["seed"])
            yield Record(
                key,
                split,
                key,
                labels={"questions": [{"kind": KINDS[answer], "answer": answer} for _, answer in pairs]},
                media={"file": file},
                messages=question_tree(Medium(type="image", media="png"), pairs),
                sizes={"png": Size(kind="image", width=width, height=height)},
            )


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The bytes of a record's image, unchanged."""
    files = Files(context.inputs["raw"])
    return lambda record: {"png": files.read(record.media["file"])}


class Files:
    """The files in the wheel."""

    def __init__(self, raw: Path) -> None:
        self.wheel = find_wheel(raw, DISTRIBUTION)
        self.archive = open_wheel(self.wheel)

    def read(self, member: str) -> bytes:
        return read_member(self.wheel, self.archive, member)


def _rows(files: Files, member: str) -> list[tuple[str, str, int]]:
    rows: Any = parsed(files.read(member), f"{DISTRIBUTION}: {member}", EXPECTED)
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise DataError(f"{DISTRIBUTION}: {member} is not {EXPECTED}")
    return rows


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and list(map(type, row)) == [str, str, int]
