"""LLaVA's layout: one record for each row, a conversation about one image, about one video or about none.

The image is the context of the message tree, the conversation is its one branch. As in LLaVA, `<image>` may stand
anywhere in the first human turn: the image comes before the text. A row with `video` has `<image>` or `<video>` there.
Rows that cannot be used are dropped with the reason.

Labels: `id` as published, and `questions` [{kind: conversation, answer}] with the last answer.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from glassworks.config.base import nearest
from glassworks.data.clip_files import ClipFacts, clip_facts
from glassworks.data.file_names import FileNames
from glassworks.data.image_files import ImageFacts, ImageFiles
from glassworks.data.json_files import is_canonical, parsed
from glassworks.data.messages import Medium, Message, Size
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.splits import split_of
from glassworks.data.texts import UnusableText, is_unicode
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import track

EXPECTED = 'LLaVA\'s JSON: [{"id", "image" or "video", "conversations": [{"from": "human" or "gpt", "value"}, …]}, …]'
PLACEHOLDER, VIDEO_PLACEHOLDER = "<image>", "<video>"
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


class Unusable(ValueError):
    """A row that cannot be used. `str(error)` is the reason."""


@dataclass(frozen=True, slots=True)
class Row:
    """A usable row."""

    number: int
    where: str
    file: str | None
    """Path of its image or video in the folder of the dataset."""
    is_video: bool
    name: Any
    """Its id."""
    turns: list[tuple[str, str]]
    """Role and text."""


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every conversation, in the order of the file."""
    images = ImageFiles(context)
    name = _find(images, context)
    content = parsed(images.read(name), images.folder / name, EXPECTED)
    if not isinstance(content, list):
        raise DataError(f"{images.folder / name}: not a list (found: {type(content).__name__}); expected {EXPECTED}")
    names = FileNames(images.folder, images.inventory, context.params["images"])
    rows: list[Row | Dropped] = []
    for number, entry in enumerate(content, start=1):
        where = f"{name} row {number}"
        try:
            rows.append(_row(entry, number, where, names))
        except (Unusable, UnusableText) as fault:
            rows.append(Dropped(where, str(fault)))
    del content
    files = {row.file: row.is_video for row in rows if isinstance(row, Row) and row.file}

    def check(name: str) -> ImageFacts | ClipFacts | str:
        return clip_facts(images, name) if files[name] else images.facts(name)

    with ThreadPoolExecutor(context.threads) as pool:
        label = f"check {context.stage.subject}"
        facts = dict(zip(files, track(pool.map(check, files), label, len(files), "images"), strict=True))
    for row in rows:
        found = None if isinstance(row, Dropped) or row.file is None else facts[row.file]
        if isinstance(row, Dropped):
            yield row
        elif isinstance(found, str):
            yield Dropped(f"{row.where} ({row.file})", found)
        else:
            yield _record(row, found, images, context)
    if names.changed:
        yield Remark("a file is found with other slashes or in another Unicode form", count=names.changed)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The unchanged bytes of a record's image or video; nothing for a record without one."""
    images = ImageFiles(context)

    def read(record: Record) -> dict[str, bytes]:
        return {member: images.read(record.media["file"]) for member in record.sizes}

    return read


def _find(images: ImageFiles, context: Context) -> str:
    """The file of the conversations."""
    key = f"params.yaml: datasets.{context.stage.subject}.conversations"
    given, found = context.params["conversations"], [name for name in images.inventory if name.endswith(".json")]
    if given is not None:
        if given not in images.inventory:
            raise DataError(f"{key}: {given}: no such file{nearest(given, found)}")
        return str(given)
    top = [name for name in found if "/" not in name] or found
    if len(top) != 1:
        several = f"{len(top)} .json files are there: {', '.join(top[:5])}; name one" if top else "no .json is there"
        raise DataError(f"{key}: {several}; expected {EXPECTED}")
    return top[0]


def _row(entry: Any, number: int, where: str, names: FileNames) -> Row:
    if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
        raise Unusable("no list of conversations")
    turns = [_turn(turn, place) for place, turn in enumerate(entry["conversations"], start=1)]
    start = int(bool(turns) and turns[0][0] == "system")
    for place, (role, _) in enumerate(turns[start:]):
        if role != ("user", "assistant")[place % 2]:
            raise Unusable(f"the speakers do not alternate, beginning with human (turn {place + start + 1})")
    if len(turns) - start < 2 or turns[-1][0] != "assistant":
        raise Unusable("no answer of gpt at the end")
    image, video, identity = entry.get("image"), entry.get("video"), entry.get("id")
    if isinstance(image, list) or isinstance(video, list) or None not in (image, video):
        raise Unusable("several images in a row are not read")
    if video is not None:
        turns = [(role, text.replace(VIDEO_PLACEHOLDER, PLACEHOLDER)) for role, text in turns]
    placed = [place for place, (_, text) in enumerate(turns) for _ in range(text.count(PLACEHOLDER))]
    is_video, image = video is not None, image if video is None else video
    if image is None and placed:
        raise Unusable(f"{PLACEHOLDER} in a row without an image")
    if image is not None and placed != [start]:
        count = f"{len(placed)} times" if len(placed) != 1 else f"in turn {placed[0] + 1}"
        raise Unusable(f"{PLACEHOLDER} stands not once in the first human turn (found: {count})")
    texts = [(role, _text(text, place)) for place, (role, text) in enumerate(turns, start=1)]
    file = None if image is None else names.find(image)
    return Row(number, where, file, is_video, identity if is_canonical(identity) else None, texts)


def _turn(turn: Any, place: int) -> tuple[str, str]:
    """Role and text of a turn."""
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise Unusable(f"a turn has no text (turn {place})")
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in ROLES:
        raise Unusable(f"unknown speaker: {speaker!r}{nearest(str(speaker), list(ROLES))} (turn {place})")
    return ROLES[speaker], turn["value"]


def _text(value: str, place: int) -> str:
    """The text of a turn. `None` and `N/A` are answers here."""
    text = value.replace(PLACEHOLDER, "").strip()
    if not text:
        raise Unusable(f"a turn has no text (turn {place})")
    if "\0" in text or not is_unicode(text):
        raise Unusable(f"a turn holds a NUL character or half of a character (turn {place})")
    return text


def _record(row: Row, facts: ImageFacts | ClipFacts | None, images: ImageFiles, context: Context) -> Record:
    asked = hashlib.sha256("\0".join(text for role, text in row.turns if role == "user").encode()).hexdigest()
    group = f"image-{images.inventory[row.file].sha256[:16]}" if row.file else f"text-{asked[:16]}"
    messages = [Message(role=role, content=text, branch=1) for role, text in row.turns]
    sizes: dict[str, Size] = {}
    if isinstance(facts, ClipFacts):
        sizes = {facts.member: facts.size}
    elif facts:
        sizes = {facts.extension: Size(kind="image", width=facts.width, height=facts.height)}
    for member, size in sizes.items():
        messages.insert(0, Message(role="user", content=[Medium(type=size.kind, media=member)]))
    return Record(
        f"{row.number:08d}",
        split_of(group, context.params["splits"], context.params["seed"]),
        group,
        labels={"id": row.name, "questions": [{"kind": "conversation", "answer": row.turns[-1][1]}]},
        media={"file": row.file} if row.file else {},
        messages=messages,
        sizes=sizes,
    )
