"""The check of a table of records is exact for any number of rows, and its memory is a few bytes a record."""

import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glassworks.data import record_check
from glassworks.data.record_check import check
from glassworks.data.records import GROUP, TABLE, Record, write_table
from glassworks.errors import DataError


def row(key, group=None, split="train"):
    return Record(str(key), split, str(key) if group is None else group)


@pytest.fixture
def fault(tmp_path, monkeypatch):
    """What the check says of some records, reading three rows at a time."""
    monkeypatch.setattr(record_check, "BATCH", 3)

    def fault(records):
        write_table(tmp_path / TABLE, records)
        try:
            check("things", tmp_path / TABLE)
        except DataError as error:
            return str(error)
        return None

    return fault


ROWS = [row(key) for key in range(20)]
CASES = [
    (ROWS, None),
    ([], None),
    ([*ROWS, row(0, "other")], "two samples have the key '0'"),
    ([*ROWS, row(0, "other", "test")], "two samples have the key '0'"),
    ([*ROWS, row(7), row(3), row(7)], "two samples have the key '3'"),
    ([*ROWS, row("a", "7"), row("b", "7")], None),
    ([*ROWS, row("a", "7", "test")], "the group '7' is in two splits"),
    (
        [*ROWS, row("a", "7", "test"), row("b", "2", "validation"), row("c", "2", "test")],
        "the group '2' is in two splits",
    ),
    ([*ROWS, row("a", "5", "test"), row(19)], "two samples have the key '19'"),
    ([row(number, "one") for number in range(10)], None),
    ([row("ä"), row("a\u0308"), row(""), row(" ")], None),
]


@pytest.mark.parametrize(("records", "line"), CASES)
def test_the_first_repeated_key_or_torn_group_is_named(fault, records, line):
    assert fault(records) == (line and f"things: {line}")


@pytest.mark.parametrize("collide", [lambda text: 5, len, lambda text: -len(text) << 60], ids=["one", "length", "high"])
@pytest.mark.parametrize(("records", "line"), CASES)
def test_texts_of_the_same_hash_are_told_apart(fault, monkeypatch, collide, records, line):
    monkeypatch.setattr(record_check, "hash", collide, raising=False)
    assert fault(records) == (line and f"things: {line}")


def peak(path, count):
    """Bytes of arrays and of Arrow that the check of `count` records holds at most."""
    keys = [f"{number:030}" for number in range(count)]
    pq.write_table(pa.table({"key": keys, "split": ["train"] * count, "group": keys}), path, row_group_size=GROUP)
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        check("things", path)
        return tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def test_memory_grows_by_the_hashes_alone(tmp_path):
    few, many = (peak(tmp_path / f"{count}.parquet", count) for count in (50_000, 200_000))
    assert (many - few) / 150_000 < 24, "a record takes more than its hash and the work of the sort"
