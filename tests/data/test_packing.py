"""Packing: every token is a target once, rows are nearly full, and what is packed does not depend on anything but lengths."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from glassworks.data.reading.packing import PackedTexts, pack
from glassworks.data.reading.tokens import Tokens, tokenize


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


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(2, 40))
def test_a_plan_holds_every_token_once_and_no_row_too_many(lengths, capacity):
    rows = pack(np.array(lengths, dtype=np.int64), capacity)
    found = [
        (piece.text, token) for row in rows for piece in row for token in range(piece.start, piece.start + piece.length)
    ]
    assert sorted(found) == [(text, token) for text, length in enumerate(lengths) for token in range(length)]
    assert all(sum(piece.length for piece in row) <= capacity for row in rows)
    # two rows that would fit into one could not both be left by best fit
    spaces = sorted(sum(piece.length for piece in row) for row in rows)
    assert len(spaces) < 2 or spaces[0] + spaces[1] > capacity


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
    rows = pack(lengths, 256)
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
