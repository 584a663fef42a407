"""Packing: every token is a target once, rows are nearly full, and what is packed does not depend on anything but lengths."""

import json
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassworks.config.packing import Packing
from glassworks.data.reading import packing
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.joined_tokens import join_saved
from glassworks.data.reading.order import mix
from glassworks.data.reading.packing import PackedRows, arrange, pack, plan, plan_rows
from glassworks.data.reading.tokens import Tokens, join, tokenize
from glassworks.errors import DataError


class Shards:
    """Texts of given lengths in shards of given sizes; keys are their numbers."""

    def __init__(self, *sizes: int) -> None:
        self.shard_sizes = list(sizes)

    def __len__(self):
        return sum(self.shard_sizes)

    def __getitem__(self, index):
        return type("Sample", (), {"key": str(index)})()


def packed_rows(shards, tokens, row_tokens, kind="documents", **settings) -> PackedRows:
    settings = Packing(row_tokens=row_tokens, packing=kind, **settings)
    return PackedRows(shards, tokens, plan_rows(shards, tokens, settings))


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
    message = r"^picture 7: 5,000 tokens and 3 crops, and a row has room for 100 tokens and 4 crops; .* only plain texts are ever cut$"
    sizes = np.array([*[(10, 1)] * 7, (5000, 3), (9, 9)])
    for split in (False, sizes[:, 1] == 0):
        with pytest.raises(DataError, match=message):
            plan([6, 3], sizes, limits, split, "picture {}".format)
    with pytest.raises(DataError, match=r"^sample 1: 10 tokens and 5 crops, and"):
        packed([(250, 0), (10, 5)], limits, split=True)
    with pytest.raises(DataError, match=r"^sample 0: 250 tokens and 0 crops, and"):
        packed([(250, 0)], limits)


class Letters:
    """A tokenizer with a token for each letter."""

    bos, eos, pad, size = 1, 2, 0, 300

    def encode_all(self, texts):
        return [[1, *ids, 2] for ids in self.encode_parts(texts)]

    def encode_parts(self, texts):
        return [[ord(letter) for letter in text] for text in texts]


class Written(Shards):
    """Samples with these contents of the member json, in one shard."""

    def __init__(self, *contents: dict) -> None:
        super().__init__(len(contents))
        self.contents = contents

    def __getitem__(self, index):
        content = self.contents[index]
        return Sample(f"k{index}", {"json": memoryview(json.dumps(content).encode())}, f"sample {index}")


TEXTS = Written(*({"captions": [letter * length]} for letter, length in zip("abcde", (3, 7, 1, 6, 2), strict=True)))


def test_rows_are_kept_and_mapped_into_memory(tmp_path, monkeypatch):
    settings, folder = Packing(row_tokens=12), tmp_path / "work" / "rows"
    made, fresh = arrange(TEXTS, Letters(), settings, folder), arrange(TEXTS, Letters(), settings)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*")) == [
        *("plan/items.npy", "plan/shard_sizes.npy", "plan/starts.npy", "tokens/ends.npy", "tokens/ids.npy"),
    ]
    assert all(isinstance(array, np.memmap) for array in (*made.plan, made.tokens.ids, made.tokens.ends))
    assert made.shard_sizes == fresh.shard_sizes
    for index in range(len(fresh)):
        assert made[index].key == fresh[index].key and (made[index].inputs == fresh[index].inputs).all()
    content = {path: path.read_bytes() for path in folder.glob("*/*.npy")}
    fresh.plan.save(folder / "plan")  # a second worker that planned at the same time
    assert {path: path.read_bytes() for path in folder.glob("*/*")} == content
    assert sorted(path.name for path in folder.iterdir()) == ["plan", "tokens"]
    for name in ("tokenize", "plan_rows"):
        monkeypatch.setattr(packing, name, None)
    assert len(arrange(TEXTS, Letters(), settings, folder)) == len(fresh)


def test_rows_of_documents_hold_whole_texts_and_their_next_tokens():
    lengths = [5, 9, 3, 8, 4]
    tokens = numbered(lengths)
    rows = packed_rows(Shards(3, 2), tokens, 12)
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
    rows = packed_rows(Shards(3), tokens, 8, "stream")
    assert [rows[index].inputs.tolist() for index in range(len(rows))] == [list(range(8)), list(range(8, 16))]
    assert [rows[index].targets.tolist() for index in range(len(rows))] == [list(range(1, 9)), list(range(9, 17))]
    assert rows.texts(1).tolist() == [1, 1, 1, 1, 1, 2, 2, 2]


def test_rows_are_nearly_full():
    lengths = np.random.default_rng(0).integers(5, 90, 1000)
    rows = packed(lengths.tolist(), {"tokens": 256})
    assert lengths.sum() / (len(rows) * 256) > 0.99


def message(role, content, branch=0, **more):
    return {"role": role, "content": content, "branch": branch, **more}


CHAT = {"messages": [message("user", "ab"), message("assistant", "c"), message("user", "d"), message("assistant", "e")]}
TREE = {
    "messages": [
        message("system", "ab"),
        message("user", "c", 1),
        message("assistant", "de", 1),
        message("assistant", "f", 2, weight=0.5),
    ]
}
a, b, c, d, e, f = (ord(letter) for letter in "abcdef")


def test_messages_become_tokens_with_weights_and_branches_begin_with_the_end_of_their_context():
    tokens = tokenize(Written(TEXTS.contents[0], TREE, CHAT), Letters())
    assert tokens.text(0).tolist() == [1, a, a, a, 2]
    assert tokens.text(1).tolist() == [1, a, b, 2, 2, c, 2, d, e, 2, 2, f, 2]
    assert tokens.weights[5:18].tolist() == [0] * 7 + [1, 1, 1] + [0, 0.5, 0.5]
    assert tokens.bounds(1) == [5, 9, 15, 18] and tokens.bounds(0) == [0, 5]
    assert tokens.text(2).tolist() == [1, a, b, 2, c, 2, d, 2, e, 2]
    assert tokens.weights[18:].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 1, 1]
    assert tokens.texts.tolist() == [True, False, False]
    assert tokens.inputs().tolist() == [4, 3 + 5 + 2, 9]


def test_the_tokens_of_parts_joined_are_those_of_the_whole():
    dataset = Written(*TEXTS.contents, TREE, CHAT, TEXTS.contents[0])
    whole = tokenize(dataset, Letters())
    for cuts in ([0, 2, 6, 8], [0, 5, 8], [0, 8]):
        parts = [tokenize(dataset, Letters(), range(*cut)) for cut in pairwise(cuts)]
        assert (parts[0].weights is None) == (cuts[1] <= 5)
        for name, array in join(parts)._asdict().items():
            assert array.dtype == getattr(whole, name).dtype and (array == getattr(whole, name)).all(), name


@pytest.mark.parametrize("cuts", [[0, 2, 6, 8], [0, 5, 8], [0, 3, 5], [0, 8], [0, 0, 5, 5]])
def test_tokens_are_joined_on_disk_to_the_same_bytes(tmp_path, cuts):
    dataset = Written(*TEXTS.contents, TREE, CHAT, TEXTS.contents[0])
    parts = [tokenize(dataset, Letters(), range(*cut)) for cut in pairwise(cuts)]
    folders = [tmp_path / str(number) for number in range(len(parts))]
    for part, folder in zip(parts, folders, strict=True):
        part.save(folder)
    join(parts).save(tmp_path / "expected")
    join_saved(folders, tmp_path / "joined")
    expected, found = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("expected", "joined")
    )
    assert found == expected


def test_a_row_holds_texts_conversations_and_trees():
    rows = arrange(Written(TREE, CHAT, TEXTS.contents[0]), Letters(), Packing(row_tokens=23))
    assert len(rows) == 1
    row = rows[0]
    assert row.key == "k0"
    assert row.documents.tolist() == [0] * 10 + [1] * 9 + [2] * 4
    assert row.branches.tolist() == [0] * 3 + [1] * 5 + [2] * 2 + [0] * 13
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 3, 4, *range(9), *range(4)]
    assert row.inputs[:10].tolist() == [1, a, b, 2, c, 2, d, e, 2, f]
    assert row.targets[:10].tolist() == [a, b, 2, c, 2, d, e, 2, f, 2]
    assert row.weights[:10].tolist() == [0] * 3 + [0, 0, 1, 1, 1] + [0.5, 0.5]
    assert rows.texts(0).tolist() == row.documents.tolist()
    plain = arrange(TEXTS, Letters(), Packing(row_tokens=12))[0]
    assert plain.weights is plain.branches is plain.positions is None


def test_a_row_holds_no_more_documents_than_allowed():
    rows = arrange(TEXTS, Letters(), Packing(row_tokens=6, documents_per_row=1))
    pieces = [rows.plan.row(index).tolist() for index in range(len(rows))]
    assert all(len(row) == 1 for row in pieces)
    assert [row[0][0] for row in pieces] == [0, 1, 1, 2, 3, 3, 4], "texts longer than a row are still split"
    assert max(len(row) for row in arrange(TEXTS, Letters(), Packing(row_tokens=12)).plan.items) > 1


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (TREE, r"^sample 1, a context of 3 and branches of 5, 2: 10 tokens, and a row has room for 9 tokens; shorten"),
        ({"messages": [message("assistant", "abcdefghi")]}, r"^sample 1: 10 tokens, and a row has room for 9 tokens"),
        ({"messages": [message("user", "a")]}, r"^sample 1: no token has a loss; give a message the role"),
        ({"messages": [*TREE["messages"], message("user", "a", 3)]}, r"^sample 1: branch 3: no token has a loss"),
        (
            {"messages": [message("assistant", [{"type": "image", "media": "png"}])]},
            r"^sample 1: a message holds media, and this task reads texts only",
        ),
        ({"messages": [message("user", "a", 4)]}, r"^sample 1: messages.0.branch: 4 follows 0"),
    ],
)
def test_messages_that_cannot_be_packed_are_one_line(content, line):
    with pytest.raises(DataError, match=line):
        arrange(Written(TEXTS.contents[0], content), Letters(), Packing(row_tokens=9))


def test_a_stream_of_messages_is_one_line():
    with pytest.raises(DataError, match=r"^sample 1: holds messages, which `packing: stream` would cut"):
        arrange(Written(TEXTS.contents[0], TREE), Letters(), Packing(row_tokens=90, packing="stream"))
