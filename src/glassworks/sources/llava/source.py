"""LLaVA's layout: one record for each row, a conversation about images, about one video or about none.

The image is the context of the message tree, the conversation is its one branch. As in LLaVA, `<image>` may stand
anywhere in the first human turn: the image comes before the text. A row with `video` has `<image>` or `<video>` there.
A row with a list of images, as in LLaVA-NeXT-Interleave, has one `<image>` for each, in human turns. Where all of them begin the first turn, they are the
context. Else the row is a plain conversation, in which each image stands at the place of its `<image>`.
Rows that cannot be used are dropped with the reason.

Labels: `id` as published, and, for a tree, `questions` [{kind: conversation, answer}] with the last answer.
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
from glassworks.data.messages import Medium, Message, Size, Text
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
    files: list[str]
    """Paths of its images or its video in the folder of the dataset."""
    is_video: bool
    name: Any
    """Its id."""
    turns: list[tuple[str, str]]
    """Role and text. A text has `<image>` at the places of the images of a plain conversation."""
    plain: bool = False
    """Whether the images stand among the texts, and not before them."""


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
    files = {file: row.is_video for row in rows if isinstance(row, Row) for file in row.files}

    def check(name: str) -> ImageFacts | ClipFacts | str:
        return clip_facts(images, name) if files[name] else images.facts(name)

    with ThreadPoolExecutor(context.threads) as pool:
        label = f"check {context.stage.subject}"
        facts = dict(zip(files, track(pool.map(check, files), label, len(files), "images"), strict=True))
    groups = _groups([row for row in rows if isinstance(row, Row)], images)
    for row in rows:
        if isinstance(row, Dropped):
            yield row
            continue
        found = {file: facts[file] for file in row.files}
        broken = next(((file, reason) for file, reason in found.items() if isinstance(reason, str)), None)
        if broken is not None:
            yield Dropped(f"{row.where} ({broken[0]})", broken[1])
        else:
            usable = [one for file in row.files if not isinstance(one := found[file], str)]
            yield _record(row, usable, groups, context)
    if names.changed:
        yield Remark("a file is found with other slashes or in another Unicode form", count=names.changed)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The unchanged bytes of a record's images or video; nothing for a record without one."""
    images = ImageFiles(context)

    def read(record: Record) -> dict[str, bytes]:
        files = record.media.get("files") or {member: record.media["file"] for member in record.sizes}
        return {member: images.read(file) for member, file in files.items()}

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
    if image is not None and video is not None:
        raise Unusable("an image and a video in a row are not read")
    if isinstance(video, list):
        raise Unusable("several videos in a row are not read")
    if video is not None:
        turns = [(role, text.replace(VIDEO_PLACEHOLDER, PLACEHOLDER)) for role, text in turns]
    given = image if isinstance(image, list) else [one for one in (image, video) if one is not None]
    placed = [place for place, (_, text) in enumerate(turns) for _ in range(text.count(PLACEHOLDER))]
    if not given and placed:
        raise Unusable(f"{PLACEHOLDER} in a row without an image")
    if len(given) == 1 and placed != [start]:
        count = f"{len(placed)} times" if len(placed) != 1 else f"in turn {placed[0] + 1}"
        raise Unusable(f"{PLACEHOLDER} stands not once in the first human turn (found: {count})")
    plain = False
    if len(given) > 1:
        if len(placed) != len(given):
            raise Unusable(f"{PLACEHOLDER} stands {len(placed)} times, and the row has {len(given)} images")
        if spoken := [place for place in placed if turns[place][0] != "user"]:
            raise Unusable(f"{PLACEHOLDER} stands in a turn of {entry['conversations'][spoken[0]]['from']}")
        before = turns[start][1].rpartition(PLACEHOLDER)[0]
        plain = set(placed) != {start} or bool(before.replace(PLACEHOLDER, "").strip())
    texts = [(role, _text(text, place, plain)) for place, (role, text) in enumerate(turns, start=1)]
    files = [names.find(one) for one in given]
    return Row(number, where, files, video is not None, identity if is_canonical(identity) else None, texts, plain)


def _turn(turn: Any, place: int) -> tuple[str, str]:
    """Role and text of a turn."""
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise Unusable(f"a turn has no text (turn {place})")
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in ROLES:
        raise Unusable(f"unknown speaker: {speaker!r}{nearest(str(speaker), list(ROLES))} (turn {place})")
    return ROLES[speaker], turn["value"]


def _text(value: str, place: int, plain: bool) -> str:
    """The text of a turn, with the places of images in a `plain` conversation. `None` and `N/A` are answers here."""
    text = (value if plain else value.replace(PLACEHOLDER, "")).strip()
    if not text:
        raise Unusable(f"a turn has no text (turn {place})")
    if "\0" in text or not is_unicode(text):
        raise Unusable(f"a turn holds a NUL character or half of a character (turn {place})")
    return text


def _groups(rows: list[Row], images: ImageFiles) -> dict[str, str]:
    """The group of each file: equal for equal bytes and for files of one row, the first digest among them."""
    first: dict[str, str] = {}

    def root(digest: str) -> str:
        while (other := first.setdefault(digest, digest)) != digest:
            first[digest] = digest = first[other]
        return digest

    for row in rows:
        roots = {root(images.inventory[file].sha256) for file in row.files}
        for digest in roots:
            first[digest] = min(roots)
    return {file: root(images.inventory[file].sha256) for row in rows for file in row.files}


def _record(row: Row, facts: list[ImageFacts | ClipFacts], groups: dict[str, str], context: Context) -> Record:
    asked = hashlib.sha256("\0".join(text for role, text in row.turns if role == "user").encode()).hexdigest()
    group = f"image-{groups[row.files[0]][:16]}" if row.files else f"text-{asked[:16]}"
    sizes: dict[str, Size] = {}
    for number, fact in enumerate(facts):
        member, size = (fact.member, fact.size) if isinstance(fact, ClipFacts) else (fact.extension, _size(fact))
        sizes[member if len(facts) == 1 else f"{number}.{member}"] = size
    media = [Medium(type=size.kind, media=member) for member, size in sizes.items()]
    labels: dict[str, Any] = {"id": row.name}
    if row.plain:
        waiting = iter(media)
        messages = [Message(role=role, content=_parts(text, waiting)) for role, text in row.turns]
    else:
        messages = [Message(role="user", content=[*media])] if media else []
        messages += [Message(role=role, content=text, branch=1) for role, text in row.turns]
        labels["questions"] = [{"kind": "conversation", "answer": row.turns[-1][1]}]
    files: dict[str, Any] = {"file": row.files[0]} if len(row.files) == 1 else {}
    if len(row.files) > 1:
        files = {"files": dict(zip(sizes, row.files, strict=True))}
    return Record(
        f"{row.number:08d}",
        split_of(group, context.params["splits"], context.params["seed"]),
        group,
        labels=labels,
        media=files,
        messages=messages,
        sizes=sizes,
    )


def _size(facts: ImageFacts) -> Size:
    return Size(kind="image", width=facts.width, height=facts.height)


def _parts(text: str, media: Iterator[Medium]) -> str | list[Text | Medium]:
    """The content of a turn: its text, or its texts and the next images at the places of `<image>`."""
    first, *others = text.split(PLACEHOLDER)
    if not others:
        return text
    found: list[Text | Medium] = [Text(type="text", text=first)] if first else []
    for other in others:
        found.append(next(media))
        found += [Text(type="text", text=other)] if other else []
    return found
