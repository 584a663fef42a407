"""The source `messages`: your own conversations, in the forms of alpaca, ShareGPT, OpenAI (ChatML), prompt and completion.

The form of each file is recognised by its first rows, and said. A file with rows of two forms, or of none, is refused.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import Any

from glassworks.artifacts.digests import digest_json
from glassworks.config.datasets import Split
from glassworks.data.captioned_images import SPLIT_NAMES, named_split
from glassworks.data.fetching.raw_files import raw_folder
from glassworks.data.messages import TOOLS, Message, texts_of
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.splits import split_of
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.sources.messages.forms import FORMS, Unusable, convert, form_of
from glassworks.sources.messages.rows import SUFFIXES, Row, matching_files, read_objects

FIRST = 100
"""Rows by which the form of a file is recognised."""
FILE_SPLITS: dict[str, Split] = {**SPLIT_NAMES, "valid": "validation", "dev": "validation"}
"""Splits by the first word of a file's or folder's name."""


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every conversation, file by file in the order of their names."""
    params, seen, torn, counts = context.params, dict[int, Split](), 0, Counter[str]()
    names = matching_files(context, SUFFIXES)
    given = {name: file_split(name) for name in names}
    by_name = any(split not in (None, "train") for split in given.values())
    for name in names:
        key = re.sub(r"[^\w-]", "_", str(PurePosixPath(name).with_suffix("")))[-64:]
        for number, (item, form) in enumerate(_rows(context, name), start=1):
            if not isinstance(item, Row):
                yield item
                continue
            split, fault = named_split(item.value.get("split"))
            if fault:
                yield Dropped(item.where, fault)
                continue
            try:
                found = convert(form, item.value)
            except Unusable as error:
                yield Dropped(item.where, str(error))
                continue
            yield from (Remark(reason, item.where) for reason in dict.fromkeys(found.remarks))
            group = prompt_digest(found.messages)
            split = split or (given[name] if by_name else None) or seen.get(int(group, 16))
            split = split or split_of(group, params["splits"], params["seed"])
            apart = seen.setdefault(int(group, 16), split) != split
            torn += apart
            counts[form] += 1
            labels: dict[str, Any] = {TOOLS: found.tools} if found.tools else {}
            yield Record(
                f"{key}-{number:08}",
                split,
                f"{group}-{split}" if apart else group,
                labels=labels,
                messages=found.messages,
            )
    for form, count in counts.items():
        yield Remark(f"a row in the {form} form ({FORMS[form]})", count=count)
    if torn:
        yield Remark("a conversation has the user messages of one in another split, as published", count=torn)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function that returns no media: a record holds its messages."""
    return lambda record: {}


def prompt_digest(messages: list[Message]) -> str:
    """Digest of the user's messages. Conversations that are equal in them share a split, whatever the answers are."""
    asked = [texts_of([message]) for message in messages if message.role == "user"]
    return digest_json(asked or [texts_of(messages)])[:16]


def file_split(name: str) -> Split | None:
    """The split that the name of a file, or of its folder, begins with."""
    for part in reversed(PurePosixPath(name).parts):
        if split := FILE_SPLITS.get(re.split(r"[^a-z]", part.lower())[0]):
            return split
    return None


def _rows(context: Context, name: str) -> Iterator[tuple[Row | Dropped | Remark, str]]:
    """The rows of a file with its form. Raises `DataError` for rows of no form, or of two."""
    path = raw_folder(context) / name
    items = read_objects(path, name)
    first = list(islice(items, FIRST))
    rows = [item for item in first if isinstance(item, Row)]
    form = next((found for row in rows if (found := form_of(row.value))), "")
    forms = "; ".join(f"{name} ({keys})" for name, keys in FORMS.items())
    if rows and not form:
        keys = ", ".join(dict.fromkeys(key for row in rows for key in row.value))
        raise DataError(f"{path}: the keys {keys[:200]} are no form of conversations; the forms are {forms}")
    for item in chain(first, items):
        if isinstance(item, Row) and (other := form_of(item.value)) and other != form:
            raise DataError(
                f"{item.where}: a row in the {other} form in a file that begins in the {form} form; "
                f"write one file for each form: {forms}"
            )
        yield item, form
