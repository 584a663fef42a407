"""Text that is streamed is the final text, in pieces that hold whole characters."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from glassworks.generation.text import TextStream

TEXTS = ["plain words", "na\u00efve \u2014 \u4f60\u597d \U0001f9d1\u200d\U0001f680!", "", "\u20ac\u20ac"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A byte-level tokenizer without merges: every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_text_is_the_final_text_in_whole_characters(tokenizer, text):
    stream = TextStream(tokenizer.decode)
    pieces = [stream.add(token) for token in tokenizer.encode(text).ids]
    assert "".join(pieces) == text and stream.end() == ""
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert sum(map(bool, pieces)) == len(text), "every character comes when its last byte has come"


def test_bytes_that_never_become_a_character_come_at_the_end(tokenizer):
    ids = tokenizer.encode("a\u20ac").ids[:-1]
    stream = TextStream(tokenizer.decode)
    pieces = [*map(stream.add, ids), stream.end()]
    assert pieces == ["a", "", "", tokenizer.decode(ids)[1:]] and "".join(pieces) == tokenizer.decode(ids)
