"""The source `video`: your own videos, with a table of captions, or of questions and answers.

A row is an object with `video`, and with `caption` (a text or a list), or `question`, `answer` and optionally `kind`. An optional `split` (train,
validation or val, test) fixes the split of a video. All rows of a video make one message tree, a branch for each question.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from glassworks.config.base import nearest
from glassworks.config.datasets import Split
from glassworks.data.captioned_images import named_split
from glassworks.data.clip_files import ClipFacts, clip_facts
from glassworks.data.file_names import FileNames
from glassworks.data.image_files import ImageFiles, keys
from glassworks.data.messages import Medium
from glassworks.data.question_trees import question_tree
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.splits import split_of
from glassworks.data.texts import UnusableText, clean_text
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import track
from glassworks.sources.messages.rows import SUFFIXES, Row, read_objects

EXPECTED = '{"video": "a.mp4", "caption": "…"} or {"video": "a.mp4", "question": "…", "answer": "…"} in each line'
CAPTION, QUESTION = "caption", "question"
"""Kinds of the answers, unless a row says otherwise."""


@dataclass(slots=True)
class Asked:
    """A video with its questions."""

    where: str
    """Its first row."""
    questions: list[tuple[str, str, str]] = field(default_factory=list)
    """Kind, question and answer."""
    split: Split | None = None


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every video of the table, in the order of its first row."""
    files = ImageFiles(context)
    name = _find(files, context)
    names = FileNames(files.folder, files.inventory, context.params["videos"])
    found: dict[str, Asked] = {}
    for row in read_objects(files.folder / name, name):
        if not isinstance(row, Row):
            yield row
            continue
        try:
            file = names.find(row.value.get("video"))
            questions = _questions(row.value, context.params["caption_question"])
            split, fault = named_split(row.value.get("split"))
            if fault:
                raise UnusableText(fault)
        except UnusableText as error:
            yield Dropped(row.where, str(error))
            continue
        asked = found.setdefault(file, Asked(f"{row.where} ({file})"))
        if split is not None and asked.split not in (None, split):
            raise DataError(
                f"{row.where} ({file}): split {split}, but an earlier row of the same video says {asked.split} ({asked.where}); "
                "a video belongs to one split"
            )
        asked.split = split or asked.split
        asked.questions += questions
    if not found:
        raise DataError(f"{files.folder / name}: no row can be used; expected {EXPECTED}")
    with ThreadPoolExecutor(context.threads) as pool:
        facts = pool.map(lambda file: clip_facts(files, file), found)
        facts = track(facts, f"check {context.stage.subject}", len(found), "videos")
        key = keys(found)
        for (file, asked), one in zip(found.items(), facts, strict=True):
            if isinstance(one, str):
                yield Dropped(asked.where, one)
            else:
                yield _record(key[file], files.inventory[file].sha256, file, asked, one, context)
    if names.changed:
        yield Remark("a file is found with other slashes or in another Unicode form", count=names.changed)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The unchanged bytes of a record's video."""
    files = ImageFiles(context)
    return lambda record: {member: files.read(record.media["file"]) for member in record.sizes}


def _find(files: ImageFiles, context: Context) -> str:
    """The file of the rows."""
    key = f"params.yaml: datasets.{context.stage.subject}.table"
    given, found = context.params["table"], [name for name in files.inventory if name.lower().endswith(SUFFIXES)]
    if given is not None:
        if given not in files.inventory:
            raise DataError(f"{key}: {given}: no such file{nearest(given, found)}")
        return str(given)
    lines = [name for name in found if name.lower().endswith(".jsonl")] or found
    if len(lines) != 1:
        several = f"{len(lines)} tables are there: {', '.join(lines[:5])}; name one" if lines else "no .jsonl is there"
        raise DataError(f"{key}: {several}; expected {EXPECTED}")
    return lines[0]


def _questions(row: dict[str, Any], caption_question: str) -> list[tuple[str, str, str]]:
    """Kind, question and answer of a row. Raises `UnusableText`."""
    captions = row.get("caption", [])
    found = [
        (CAPTION, caption_question, clean_text(text))
        for text in (captions if isinstance(captions, list) else [captions])
    ]
    if "question" in row or "answer" in row:
        texts = {}
        for key in ("question", "answer"):
            text = row.get(key)
            if not isinstance(text, str) or not text.strip() or "\0" in text:
                raise UnusableText(f"no {key}")
            texts[key] = text.strip()
        kind = row.get("kind", QUESTION)
        if not isinstance(kind, str) or not kind.strip():
            raise UnusableText(f"the kind is no text (found: {kind!r:.40})")
        found.append((kind.strip(), texts["question"], texts["answer"]))
    if not found:
        raise UnusableText(f"neither caption nor question and answer (keys found: {', '.join(list(row)[:8])})")
    return found


def _record(key: str, sha256: str, file: str, asked: Asked, facts: ClipFacts, context: Context) -> Record:
    group = f"video-{sha256[:16]}"
    captions = [answer for kind, _, answer in asked.questions if kind == CAPTION]
    return Record(
        key,
        asked.split or split_of(group, context.params["splits"], context.params["seed"]),
        group,
        captions,
        labels={
            "questions": [
                {"kind": kind, "answer": answer, **({"references": captions} if kind == CAPTION else {})}
                for kind, _, answer in asked.questions
            ]
        },
        media={"file": file},
        messages=question_tree(
            Medium(type="video", media=facts.member), ((question, answer) for _, question, answer in asked.questions)
        ),
        sizes={facts.member: facts.size},
    )
