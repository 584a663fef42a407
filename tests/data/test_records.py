"""The table of records: read and written a row group at a time, and refused when its keys or groups contradict each other."""

import json
from array import array
from dataclasses import replace
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from glassworks.data import records as table_module
from glassworks.data.messages import Size, as_json, parse_messages
from glassworks.data.records import TABLE, Dropped, Record, RecordTable, Rows, read_table, write_table
from glassworks.data.shards import members_of
from glassworks.errors import DataError
from glassworks.stages import records as stage

RECORDS = [
    Record(f"k{i}", ("train", "test")[i % 3 == 2], f"g{i}", [f"caption {i}", "ünïcode"], {"n": i}, {"file": f"{i}.png"})
    for i in range(11)
]


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(table_module, "GROUP", 4)
    monkeypatch.setattr(table_module, "BATCH", 3)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the stage on these items of a source."""

    def run(items, max_dropped=0):
        monkeypatch.setattr(stage, "load_source", lambda name: SimpleNamespace(records=lambda context: iter(items)))
        params = {"source": "listed", "max_dropped": max_dropped}
        return stage.run(
            SimpleNamespace(params=params, output=tmp_path, stage=SimpleNamespace(subject="things", jobs=0))
        )

    return run


def test_a_table_of_several_row_groups_is_read_in_order(tmp_path, small_groups):
    write_table(tmp_path / TABLE, iter(RECORDS))
    assert pq.ParquetFile(tmp_path / TABLE).num_row_groups == 3
    assert list(read_table(tmp_path)) == RECORDS
    assert list(read_table(tmp_path, "test")) == RECORDS[2::3]
    table = RecordTable(tmp_path)
    assert list(table.columns("split", "key")) == [(record.split, record.key) for record in RECORDS]
    for numbers in ([], [0], [3, 4], [10], [0, 2, 3, 7, 8, 10], list(range(11))):
        rows = Rows(table, array("q", numbers))
        assert len(rows) == len(numbers)
        assert list(rows) == list(rows) == [RECORDS[number] for number in numbers]


def test_counts_what_it_kept_and_dropped(run, tmp_path, small_groups):
    found = run([RECORDS[0], Dropped("row 2", "no image"), *RECORDS[1:]], max_dropped=1)
    assert found == {
        "samples": {"train": 8, "validation": 0, "test": 3},
        "captions": 22,
        "dropped": 1,
        "reasons": {"no image": 1},
    }
    assert list(read_table(tmp_path)) == RECORDS
    assert '"no image"' in (tmp_path / "dropped.json").read_text()


@pytest.mark.parametrize(
    ("items", "line"),
    [
        ([*RECORDS, Record("k1", "train", "other", [])], "things: two samples have the key 'k1'"),
        ([*RECORDS, Record("new", "test", "g0", [])], "things: the group 'g0' is in two splits"),
        ([Record("a.b", "train", "g", [])], "things: the key 'a.b' cannot name a member of a tar (no dots, no slashes)"),
        (RECORDS[2::3], "things: no sample is left for training (only test 3)"),
        ([], "things: no sample is left for training"),
        ([Dropped("row 1", "no image"), *RECORDS], "things: 1 samples cannot be used and datasets.things.max_dropped is 0: row 1: no image"),
    ],
)  # fmt: skip
def test_a_table_that_makes_no_sense_is_one_line(run, items, line, small_groups):
    with pytest.raises(DataError) as refused:
        run(items)
    assert str(refused.value) == line


def test_a_damaged_table_is_one_line(tmp_path):
    write_table(tmp_path / TABLE, RECORDS)
    whole = (tmp_path / TABLE).read_bytes()
    for damaged in (b"", whole[:-20], whole[:40] + bytes(80) + whole[120:]):
        (tmp_path / TABLE).write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{TABLE}: cannot be read \(.*check it with `glassworks verify`$"):
            list(read_table(tmp_path))


MESSAGES = [
    {"role": "system", "content": "Look."},
    {"role": "user", "content": [{"type": "image", "media": "png"}, {"type": "text", "text": "Which?"}], "branch": 1},
    {"role": "assistant", "content": "A fox.", "branch": 1},
    {"role": "user", "content": "Where?", "branch": 2},
    {"role": "assistant", "content": "Left.", "weight": 0.5, "branch": 2},
]
TREE = Record(
    "tree",
    "train",
    "tree",
    messages=parse_messages(MESSAGES, "here"),
    sizes={"png": Size(kind="image", width=20, height=10)},
)


def test_a_sample_may_have_messages_and_sizes_and_lack_anything_else(tmp_path, small_groups):
    """The columns appear with the first record that needs them, in its row group, and the bytes are those of any other writing."""
    records = [*RECORDS[:9], TREE, *RECORDS[9:]]
    write_table(tmp_path / TABLE, records)
    assert pq.ParquetFile(tmp_path / TABLE).schema_arrow.names[-2:] == ["messages", "sizes"]
    assert pq.ParquetFile(tmp_path / TABLE).num_row_groups == 3
    assert list(read_table(tmp_path)) == records
    assert [path.name for path in tmp_path.iterdir()] == [TABLE]
    assert [message.loss_weight for message in TREE.messages] == [0, 0, 1, 0, 0.5]
    assert as_json(TREE.messages) == MESSAGES


def test_a_table_without_messages_has_the_bytes_that_it_always_had(tmp_path, small_groups):
    write_table(tmp_path / TABLE, RECORDS)
    assert pq.ParquetFile(tmp_path / TABLE).schema_arrow.equals(table_module.SCHEMA)


CALLS = [
    {"role": "user", "content": "Weather in Rome?"},
    {"role": "assistant", "content": "", "reasoning": "I look.", "tool_calls": [
        {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"unit": "C", "city": "Rome"}}}]},
    {"role": "tool", "content": "21", "tool_call_id": "c1", "name": "weather"},
]  # fmt: skip
SCHEMA = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": {}}}


def test_tool_calls_and_tools_keep_the_order_of_their_keys_in_table_and_tar(tmp_path):
    record = Record(
        "k", "train", "g", labels={"b": {"d": 1, "c": 2}, "tools": [SCHEMA]}, messages=parse_messages(CALLS, "here")
    )
    write_table(tmp_path / TABLE, [record])
    (read,) = read_table(tmp_path)
    assert read == record and as_json(read.messages) == CALLS
    content = members_of(read, lambda record: {})["json"].decode()
    assert json.dumps(SCHEMA, separators=(",", ":")) in content and '{"unit":"C","city":"Rome"}' in content
    assert '"labels":{"b":{"c":2,"d":1},"tools"' in content and list(json.loads(content)) == sorted(json.loads(content))


def test_messages_and_sizes_are_members_of_the_sample(tmp_path):
    members = members_of(TREE, lambda record: {"png": b"pixels"})
    assert list(members) == ["png", "json"]
    content = json.loads(members["json"])
    assert content["messages"] == MESSAGES and content["captions"] == []
    assert content["sizes"] == {"png": {"kind": "image", "width": 20, "height": 10}}
    assert set(json.loads(members_of(RECORDS[0], lambda record: {})["json"])) == {"captions", "labels", "key", "group"}
    with pytest.raises(
        DataError, match=r"^sample 'tree': messages or sizes name the media file 'png'; did you mean '0.png'"
    ):
        members_of(TREE, lambda record: {"0.png": b""})


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([{"content": "a"}], "row 3: messages.0.role: Field required"),
        ([{"role": "user", "content": 3}], "row 3: messages.0.content"),
        ([{"role": "user", "content": "a", "branch": 2}], "row 3: messages.0.branch: 2 follows 0; write the context"),
        (
            [{"role": "user", "content": "a", "branch": 1}, {"role": "user", "content": "b"}],
            "row 3: messages.1.branch: 0 follows 1",
        ),
        ([{"role": "user", "content": "a", "weight": -1.0}], "row 3: messages.0.weight"),
        ([{"role": "user", "content": [{"type": "picture", "media": "a"}]}], "row 3: messages.0.content"),
        (
            [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
                }
            ],
            "row 3: messages.0.tool_calls.0.function.arguments",
        ),
    ],
)
def test_messages_that_make_no_sense_are_one_line(messages, line):
    with pytest.raises(DataError) as refused:
        parse_messages(messages, "row 3")
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


def test_the_stage_counts_messages_and_refuses_branches_in_disorder(run):
    assert run([*RECORDS, TREE])["messages"] == 5
    with pytest.raises(DataError, match=r"^things: record 'tree': messages.2.branch: 0 follows 2"):
        run([*RECORDS, replace(TREE, messages=[TREE.messages[1], TREE.messages[3], TREE.messages[0]])])
