"""Packing: every token is a target once, rows are nearly full, and what is packed does not depend on anything but lengths."""

import json
from fractions import Fraction
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassworks.data.reading.order import mix
from glassworks.data.reading.packing import PackedTexts, pack, plan
from glassworks.data.reading.tokens import Tokens, tokenize
from glassworks.errors import DataError


class Shards:
    """Texts of given lengths in shards of given sizes; keys are their numbers."""

    def __init__(self, *sizes: int) -> None:
        self.shard_sizes = list(sizes)

    def __len__(self):
        return sum(self.shard_sizes)

    def __getitem__(self, index):
        return type("Sample", (), {"key": str(index)})()


def numbered(lengths: list[int]) -> Tokens:
    return Tokens(np.arange(sum(lengths), dtype=np.int32), np.cumsum(lengths))


def packed(sizes: list, limits: dict[str, int], split: bool = False) -> list[list[tuple[int, ...]]]:
    plan = pack(np.array(sizes, np.int64).reshape(len(sizes), len(limits)), limits, split)
    assert plan.shard_sizes.tolist() == [len(plan.starts) - 1]
    return [[tuple(item) for item in plan.row(row).tolist()] for row in range(len(plan.starts) - 1)]


def best_fit(sizes: list, limits: dict[str, int]) -> list[list[tuple[int, ...]]]:
    """Best fit decreasing as one writes it down: every row is looked at for every piece."""
    most = list(limits.values())
    pieces = [
        (text, start, (min(most[0], size[0] - start), *size[1:]))
        for text, size in enumerate(sizes)
        for start in range(0, size[0], most[0])
    ]
    rows: list[dict] = []
    for time, (text, start, size) in enumerate(
        sorted(pieces, key=lambda piece: -max(Fraction(n, m) for n, m in zip(piece[2], most, strict=True)))
    ):
        fitting = [row for row in rows if all(n <= free for n, free in zip(size, row["free"], strict=True))]
        if not fitting:
            fitting = [{"free": most, "time": 0, "items": []}]
            rows += fitting
        best = min(fitting, key=lambda row: (row["free"], -row["time"]))
        best["free"] = [free - n for free, n in zip(best["free"], size, strict=True)]
        best["time"] = time
        best["items"].append((text, start, size[0]))
    return sorted(sorted(row["items"]) for row in rows)


@given(st.lists(st.integers(0, 60), max_size=60), st.integers(2, 40))
def test_a_plan_of_texts_is_best_fit_decreasing_and_holds_every_token_once(lengths, capacity):
    rows = packed(lengths, {"tokens": capacity}, split=True)
    assert rows == best_fit([(length,) for length in lengths], {"tokens": capacity})
    found = [(text, token) for row in rows for text, start, length in row for token in range(start, start + length)]
    assert sorted(found) == [(text, token) for text, length in enumerate(lengths) for token in range(length)]
    # two rows that would fit into one could not both be left by best fit
    spaces = sorted(sum(length for _, _, length in row) for row in rows)
    assert len(spaces) < 2 or spaces[0] + spaces[1] > capacity


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5), st.integers(0, 9)), max_size=40))
def test_a_plan_keeps_every_limit_and_no_two_of_its_rows_fit_into_one(sizes):
    limits = {"tokens": 40, "crops": 5, "seconds": 12}
    rows = packed(sizes, limits)
    assert rows == best_fit(sizes, limits)
    assert sorted(item for row in rows for item in row) == [(text, 0, size[0]) for text, size in enumerate(sizes)]
    sums = np.array([np.sum([sizes[text] for text, _, _ in row], axis=0) for row in rows]).reshape(-1, 3)
    most = np.array(list(limits.values()))
    assert (sums <= most).all()
    assert all((sums[i] + sums[j] > most).any() for i in range(len(sums)) for j in range(i))


def test_the_plan_of_fixed_lengths_has_fixed_bytes():
    """Published weights depend on it. The digest is that of the first version, which looked for room one token at a time."""
    lengths = [mix(number) % 5000 for number in range(3000)]
    rows = packed(lengths, {"tokens": 1024}, split=True)
    assert sha256(repr(rows).encode()).hexdigest() == "c71f94ec6554c4c83968f2b8935bae8b06ada1859f2c25cd162b5dccba3aade4"


def test_a_sample_larger_than_a_row_is_one_line_and_only_plain_texts_are_split():
    limits = {"tokens": 100, "crops": 4}
    assert packed([(250, 0)], limits, split=True) == [[(0, 0, 100)], [(0, 100, 100)], [(0, 200, 50)]]
    message = r"^picture 7: 5,000 tokens and 3 crops, and a row has room for 100 tokens and 4 crops; .* never cut inside an image$"
    for split in (False, True):
        with pytest.raises(DataError, match=message):
            plan([6, 3], np.array([*[(10, 1)] * 7, (5000, 3), (9, 9)]), limits, split, "picture {}".format)
    with pytest.raises(DataError, match=r"^sample 1: 10 tokens and 5 crops, and"):
        packed([(250, 0), (10, 5)], limits, split=True)
    with pytest.raises(DataError, match=r"^sample 0: 250 tokens and 0 crops, and"):
        packed([(250, 0)], limits)


def test_a_plan_is_kept_and_mapped_into_memory(tmp_path):
    tokens, folder = numbered([5, 9, 3, 8, 4]), tmp_path / "work" / "plan"
    made = PackedTexts(Shards(3, 2), tokens, 12, "documents", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["items.npy", "shard_sizes.npy", "starts.npy"]
    assert [path.name for path in folder.parent.iterdir()] == ["plan"]
    assert all(isinstance(array, np.memmap) for array in made.plan)
    fresh = PackedTexts(Shards(3, 2), tokens, 12, "documents")
    assert made.shard_sizes == fresh.shard_sizes == [2, 1]
    for index in range(3):
        assert made[index].key == fresh[index].key and (made[index].inputs == fresh[index].inputs).all()
    content = [(folder / name).read_bytes() for name in ("items.npy", "starts.npy")]
    fresh.plan.save(folder)  # a second worker that planned at the same time
    assert [(folder / name).read_bytes() for name in ("items.npy", "starts.npy")] == content
    assert [path.name for path in folder.parent.iterdir()] == ["plan"]


def test_a_plan_that_another_worker_kept_is_not_made_again(tmp_path, monkeypatch):
    tokens = numbered([5, 9, 3])
    PackedTexts(Shards(3), tokens, 12, "stream", tmp_path / "plan")
    monkeypatch.setattr("glassworks.data.reading.packing.plan_texts", None)
    assert len(PackedTexts(Shards(3), tokens, 12, "stream", tmp_path / "plan")) == 2


def test_rows_of_documents_hold_whole_texts_and_their_next_tokens():
    lengths = [5, 9, 3, 8, 4]
    tokens = numbered(lengths)
    rows = PackedTexts(Shards(3, 2), tokens, 12, "documents")
    assert rows.shard_sizes == [2, 1]
    pairs = []
    for index in range(len(rows)):
        row = rows[index]
        assert (row.targets == row.inputs + 1).all()
        assert (np.diff(row.documents) >= 0).all()
        texts = rows.texts(index)
        assert (np.diff(texts) != 0).tolist() == (np.diff(row.documents) != 0).tolist()
        assert row.key == str(texts[0])
        pairs += list(zip(texts.tolist(), row.targets.tolist(), strict=True))
    starts = np.cumsum([0, *lengths])
    assert sorted(pairs) == [(text, token) for text in range(5) for token in range(starts[text] + 1, starts[text + 1])]


def test_a_stream_is_cut_wherever_a_row_ends():
    tokens = numbered([5, 9, 3])
    rows = PackedTexts(Shards(3), tokens, 8, "stream")
    assert [rows[index].inputs.tolist() for index in range(len(rows))] == [list(range(8)), list(range(8, 16))]
    assert [rows[index].targets.tolist() for index in range(len(rows))] == [list(range(1, 9)), list(range(9, 17))]
    assert rows.texts(1).tolist() == [1, 1, 1, 1, 1, 2, 2, 2]


def test_rows_are_nearly_full():
    lengths = np.random.default_rng(0).integers(5, 90, 1000)
    rows = packed(lengths.tolist(), {"tokens": 256})
    assert lengths.sum() / (len(rows) * 256) > 0.99


def test_tokens_are_kept_and_found_again(tmp_path, monkeypatch):
    class Two(Shards):
        def __getitem__(self, index):
            content = {"json": memoryview(json.dumps({"captions": [["ab", "c"][index]]}).encode())}
            return type("Sample", (), {"key": str(index), "members": content, "where": "here"})()

    class Letters:
        def encode_all(self, texts):
            return [[1, *(ord(letter) for letter in text), 2] for text in texts]

    made = tokenize(Two(2), Letters(), tmp_path)
    assert made.ids.tolist() == [1, 97, 98, 2, 1, 99, 2] and made.ends.tolist() == [4, 7]
    monkeypatch.setattr("glassworks.data.reading.tokens.text_of", None)
    again = tokenize(Two(2), Letters(), tmp_path)
    assert again.ids.tolist() == made.ids.tolist() and again.text(1).tolist() == [1, 99, 2]
