"""The tokenizer is trained on the training split and is what transformers reads."""

import pytest

from glassworks.data.reading.text import TextTokenizer
from glassworks.data.records import Record, write_table
from glassworks.errors import ArtifactError, DataError
from glassworks.stages.tokenizer import run

TRAIN = ["a red apple", "the red apple on a table", "a red car, and a red house"]
PARAMS = {"datasets": {"mine": {"source": "folder", "path": "mine"}}}
EXPERIMENT = {
    "task": "captioning",
    "data": {"dataset": "mine", "tokenizer": {"vocab_size": 290}},
    "training": {"steps": 1},
}


@pytest.fixture
def trained(project, tmp_path):
    def train(captions=TRAIN, held_out="zebra zebra zebra zebra zebra", **tokenizer):
        data = {**EXPERIMENT["data"], "tokenizer": {"vocab_size": 290, **tokenizer}}
        project.configure(PARAMS, first={**EXPERIMENT, "data": data})
        context = project.context("tokenizer-first", tmp_path / f"work-{len(list(tmp_path.iterdir()))}")
        context.inputs["records"].mkdir(parents=True, exist_ok=True)
        records = [Record(f"t{i}", "train", f"t{i}", [caption]) for i, caption in enumerate(captions)]
        write_table(
            context.inputs["records"] / "records.parquet", [*records, Record("v", "test", "v", [held_out] * 20)]
        )
        run(context)
        return context.output

    return train


def test_a_text_survives_the_round_trip(trained):
    tokenizer = TextTokenizer(trained())
    for text in [*TRAIN, "ünïcödé, “quotes” and 🦊"]:
        assert tokenizer.decode(tokenizer.encode(text, 100)) == text


@pytest.mark.parametrize("token", ["<|eos|>", "<|bos|>", "<|pad|>"])
def test_a_control_token_in_a_text_is_text(trained, token):
    tokenizer = TextTokenizer(trained())
    ids = tokenizer.encode(f"a sign {token} on it", 100)
    assert not {tokenizer.pad, tokenizer.bos, tokenizer.eos} & set(ids[1:-1])
    assert tokenizer.decode(ids[1:]) == f"a sign {token} on it"
    assert tokenizer.encode_all([f"a sign {token} on it"]) == [ids]


def test_an_added_token_is_one_token_wherever_it_occurs(trained):
    markup = ['<point x="', '" y="', '">', "</point>"]
    tokenizer = TextTokenizer(trained(added_tokens=markup))
    text = '<point x="26" y="77">a red apple</point>'
    pieces = [tokenizer.decode([number]) for number in tokenizer.encode_parts([text])[0]]
    assert [piece for piece in pieces if piece in markup] == markup
    assert "".join(pieces) == tokenizer.decode(tokenizer.encode_parts([text])[0]) == text
    assert tokenizer.needed == tokenizer.size == TextTokenizer(trained()).size + len(markup)


def test_the_texts_of_further_datasets_are_learned(project, tmp_path):
    """A word that only a later stage's data has is one token; without this data it is several."""
    params = {"datasets": {name: {"source": "folder", "path": name} for name in ("mine", "later")}}
    found = {}
    for number, datasets in enumerate([[], ["later"]]):
        data = {"dataset": "mine", "tokenizer": {"vocab_size": 300, "datasets": datasets}}
        project.configure(params, first={**EXPERIMENT, "data": data})
        context = project.context("tokenizer-first", tmp_path / f"work-{number}")
        for folder in context.inputs.values():
            folder.mkdir(parents=True, exist_ok=True)
            texts = ["shrinks"] * 20 if folder.name == "later" else TRAIN
            records = [Record(f"{i}", "train", f"{i}", [text]) for i, text in enumerate(texts)]
            write_table(folder / "records.parquet", records)
        found[number] = run(context)
        assert (len(TextTokenizer(context.output).encode_parts(["shrinks"])[0]) == 1) == bool(datasets)
    assert found[1]["texts"] == found[0]["texts"] + 20


def test_padding_beginning_and_end_are_three_tokens(trained):
    tokenizer = TextTokenizer(trained())
    assert len({tokenizer.pad, tokenizer.bos, tokenizer.eos}) == 3
    ids = tokenizer.encode("a red apple", 100)
    assert ids[0] == tokenizer.bos and ids[-1] == tokenizer.eos and tokenizer.pad not in ids


def test_a_text_that_is_cut_has_no_end(trained):
    tokenizer = TextTokenizer(trained())
    assert tokenizer.eos not in tokenizer.encode("a red apple on a table", 3)
    assert len(tokenizer.encode("a red apple on a table", 3)) == 3


def test_held_out_captions_are_not_trained_on(trained):
    tokenizer = TextTokenizer(trained())
    assert len(tokenizer.encode("zebra", 100)) == 2 + len("zebra")
    assert len(tokenizer.encode(" red", 100)) == 2 + 1


def test_the_same_captions_give_the_same_bytes(trained):
    one, other = trained(), trained()
    assert (one / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


def test_transformers_reads_it_and_agrees(trained):
    from transformers import AutoTokenizer

    directory = trained()
    theirs, ours = AutoTokenizer.from_pretrained(directory), TextTokenizer(directory)
    for text in TRAIN:
        assert [ours.bos, *theirs(text, add_special_tokens=False)["input_ids"], ours.eos] == ours.encode(text, 100)
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (ours.pad, ours.bos, ours.eos)


def test_a_folder_that_is_no_tokenizer_is_said_so(tmp_path):
    with pytest.raises(ArtifactError, match="not a tokenizer"):
        TextTokenizer(tmp_path)


def test_a_training_split_without_captions_is_refused(trained):
    with pytest.raises(DataError, match="no texts"):
        trained(captions=[])
