"""The source `video`: videos with captions, or with questions and answers; whatever cannot be used is named and dropped."""

import json

import pytest
from PIL import Image

from glassworks.data.animations import write_webp
from glassworks.data.messages import Medium, Message, Size
from glassworks.data.records import Record, read_table
from glassworks.errors import DataError
from glassworks.sources.video import source

ROWS = [
    {"video": "clips/a.webp", "caption": "a square glows"},
    {"video": "clips/b.webp", "question": "what glows?", "answer": "a square ", "kind": "what"},
    {"video": "clips/a.webp", "question": "is it red?", "answer": "yes"},
]


@pytest.fixture
def watched(project):
    """Writes two videos and the rows, and runs fetch and records; returns the records."""
    folder = project.root / "films"
    (folder / "clips").mkdir(parents=True)
    for number, name in enumerate("ab"):
        frames = [Image.new("RGB", (20, 10), (shade, 90 * number, 0)) for shade in range(0, 200, 50)]
        (folder / f"clips/{name}.webp").write_bytes(write_webp(frames, 250))

    def run(rows, max_dropped=0, **settings) -> list[Record]:
        text = rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows))
        (folder / "rows.jsonl").write_text(text)
        dataset = {"source": "video", "path": "films", "max_dropped": max_dropped, **settings}
        project.configure({"datasets": {"films": dataset}})
        project.run("fetch-films")
        return list(read_table(project.run("records-films")))

    return run


def dropped(project) -> list[tuple[str, str]]:
    entries = json.loads((project.root / "data/records/films/dropped.json").read_text())
    return [(entry["where"], entry["reason"]) for entry in entries]


def test_all_rows_of_a_video_are_one_message_tree(watched, project, tmp_path):
    a, b = watched(ROWS, caption_question="what happens?")
    assert a.messages == [
        Message(role="user", content=[Medium(type="video", media="webp")]),
        Message(role="user", content="what happens?", branch=1),
        Message(role="assistant", content="a square glows", branch=1),
        Message(role="user", content="is it red?", branch=2),
        Message(role="assistant", content="yes", branch=2),
    ]
    assert a.sizes == {"webp": Size(kind="video", width=20, height=10, frames=4, seconds=1)}
    assert a.texts == ["a square glows"] and not b.texts
    assert b.labels == {"questions": [{"kind": "what", "answer": "a square"}]}
    read = source.media(project.context("shards-films", tmp_path / "work"))
    assert read(b) == {"webp": (project.root / "films/clips/b.webp").read_bytes()}
    project.run("shards-films")


def test_a_row_may_say_its_split_and_equal_videos_share_one(watched, project):
    (project.root / "films/copy.webp").write_bytes((project.root / "films/clips/a.webp").read_bytes())
    rows = [*ROWS[:2], {"video": "copy.webp", "caption": "a copy"}]
    a, _, copy = watched(rows)
    assert (a.group, a.split) == (copy.group, copy.split)
    assert watched([{**ROWS[0], "split": "val"}, ROWS[1]])[0].split == "validation"
    with pytest.raises(DataError, match=r"line 2 .*: split test, but an earlier row of the same video says train"):
        watched([{**ROWS[0], "split": "train"}, {**ROWS[2], "split": "test"}])


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"video": "clips/c.webp", "caption": "x"}, "there is no file: clips/c.webp"),
        ({"caption": "x"}, "no file is named"),
        ({"video": "clips/a.webp"}, "neither caption nor question and answer (keys found: video)"),
        ({"video": "clips/a.webp", "question": "what?"}, "no answer"),
        ({"video": "clips/a.webp", "answer": "x"}, "no question"),
        ({"video": "clips/a.webp", "caption": " "}, "no caption"),
        ({"video": "clips/a.webp", "question": "a", "answer": "b", "kind": 3}, "the kind is no text (found: 3)"),
        ({"video": "clips/a.webp", "caption": "x", "split": "tset"}, "unknown split: 'tset'; did you mean 'test'?"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_its_reason(watched, project, broken, reason):
    assert len(watched([*ROWS, broken], max_dropped=1)) == 2
    [(where, why)] = dropped(project)
    assert where == "rows.jsonl line 4" and why.startswith(reason)


def test_a_video_that_does_not_decode_is_one_line(watched, project):
    file = project.root / "films/clips/b.webp"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"rows.jsonl line 2 \(clips/b.webp\): the clip does not decode: "):
        watched(ROWS)
    assert [record.key for record in watched(ROWS, max_dropped=1)] == ["a"]


def test_the_table_is_found_or_named(watched, project):
    with pytest.raises(DataError, match=r"no row can be used; expected .*\"caption\""):
        watched('{"file": 1}', max_dropped=1)
    (project.root / "films/more.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"films.table: 2 tables are there: more.jsonl, rows.jsonl; name one"):
        watched(ROWS)
    assert len(watched(ROWS, table="rows.jsonl")) == 2
    with pytest.raises(DataError, match=r"films.table: row.jsonl: no such file; did you mean 'rows.jsonl'\?"):
        watched(ROWS, table="row.jsonl")
