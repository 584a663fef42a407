"""Tokenizers of published models: the same ids and the same text as in transformers, whatever their files set."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.errors import ArtifactError
from glassworks.generation.text import TextStream, continuation

TEXT = "the quick brown fox jumps over the lazy dog and runs away from it all"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def byte_level(directory: Path, names: dict[str, Any] | None = SPECIAL, **config: Any) -> Tokenizer:
    """A byte-level tokenizer in a folder."""
    vocabulary = ["<pad>", "<s>", "</s>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({name: index for index, name in enumerate(vocabulary)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<pad>", "<s>", "</s>", "<end>"])
    write(directory, made, names, **config)
    return made


def byte_fallback(directory: Path) -> Tokenizer:
    """Llama 2's: Metaspace, a token for each byte that the vocabulary lacks, and a decoder that strips the first space."""
    words = [f"\u2581{word}" for word in sorted(set(TEXT.split()))]
    names = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        *"abcdefghijklmnopqrstuvwxyz",
    ]
    vocabulary = {name: index for index, name in enumerate([*names, *words])}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    write(directory, made, {"bos_token": "<s>", "eos_token": "</s>"})
    return made


def write(directory: Path, made: Tokenizer, names: dict[str, Any] | None, **config: Any) -> None:
    made.save(str(directory / "tokenizer.json"))
    if names is not None:
        content = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        (directory / "tokenizer_config.json").write_text(json.dumps(content))
    if config:
        (directory / "config.json").write_text(json.dumps(config))


def test_truncation_and_padding_of_the_file_are_not_obeyed_and_not_saved(tmp_path: Path) -> None:
    made = byte_level(tmp_path)
    whole = TextTokenizer(tmp_path).encode(TEXT, 1000)
    made.enable_truncation(4)
    made.enable_padding(length=90)
    write(tmp_path, made, SPECIAL)
    ours, theirs = TextTokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(whole) == len(TEXT) + 2
    assert ours.encode(TEXT, 1000) == whole == ours.encode_all([TEXT])[0]
    assert ours.prompt(TEXT) == theirs(TEXT).input_ids == whole[1:-1]
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/tokenizer.json").read_text())
    assert saved["truncation"] is None and saved["padding"] is None
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")(TEXT).input_ids == whole[:-1]


@pytest.mark.parametrize(
    ("names", "config", "generation", "ends"),
    [
        (SPECIAL, {}, {}, (2,)),
        (SPECIAL, {"eos_token_id": [3, 2]}, {}, (2, 3)),
        (SPECIAL, {"eos_token_id": 2}, {"eos_token_id": [3]}, (2, 3)),
        ({**SPECIAL, "eos_token": None}, {"eos_token_id": 7}, {"eos_token_id": 3}, (3, 7)),
        (None, {"eos_token_id": 3, "bos_token_id": 1}, {}, (3,)),
        ({**SPECIAL, "eos_token": {"content": "<end>"}}, {"eos_token_id": None}, {}, (3,)),
    ],
)
def test_the_ends_are_those_of_tokenizer_and_configurations_together(
    names: Any, config: Any, generation: Any, ends: tuple[int, ...], tmp_path: Path
) -> None:
    byte_level(tmp_path, names, **config)
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    tokenizer = TextTokenizer(tmp_path)
    assert tokenizer.ends == ends and tokenizer.bos == 1
    assert tokenizer.decode([*tokenizer.begin("ab")[1:], ends[-1], 99]) == "ab"


def test_names_of_special_tokens_may_stand_in_special_tokens_map_alone(tmp_path: Path) -> None:
    byte_level(tmp_path, {"eos_token": None})
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    tokenizer = TextTokenizer(tmp_path)
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eos) == (0, 1, 2)
    (tmp_path / "special_tokens_map.json").unlink()
    with pytest.raises(ArtifactError, match=r"no eos_token in tokenizer_config\.json"):
        TextTokenizer(tmp_path)


def test_gpt2s_older_files_are_read_and_those_of_other_types_are_refused(tmp_path: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: index for index, name in enumerate([*alphabet, "th", "the", "<|endoftext|>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "eos_token_id": 258, "bos_token_id": 258}))
    ours, theirs = TextTokenizer(tmp_path), transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert ours.prompt(TEXT) == theirs(TEXT).input_ids and ours.text(ours.prompt(TEXT)) == TEXT
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "eos_token_id": 258}))
    with pytest.raises(ArtifactError, match=r"model_type is .qwen2., and vocab\.json is read for gpt2 only"):
        TextTokenizer(tmp_path)


def test_a_vocabulary_with_holes_needs_its_largest_id(tmp_path: Path) -> None:
    made = Tokenizer(models.WordLevel({"a": 0, "b": 5, "</s>": 9}, unk_token="a"))
    made.add_special_tokens(["</s>"])
    write(tmp_path, made, {"eos_token": "</s>"})
    assert TextTokenizer(tmp_path).size == 10


def test_an_added_padding_token_without_an_embedding_is_no_fault(tmp_path: Path) -> None:
    made = byte_level(tmp_path)
    size = made.get_vocab_size()
    made.add_special_tokens(["[PAD]"])
    write(tmp_path, made, {**SPECIAL, "pad_token": "[PAD]"}, vocab_size=size)
    tokenizer = TextTokenizer(tmp_path)
    check_vocabulary(tokenizer, size, tmp_path)
    assert tokenizer.pad == tokenizer.eos
    with pytest.raises(ArtifactError, match="does not match the tokenizer"):
        check_vocabulary(tokenizer, size - 1, tmp_path)


def test_the_space_after_a_prompt_and_its_last_token_are_kept(tmp_path: Path) -> None:
    byte_fallback(tmp_path)
    tokenizer = TextTokenizer(tmp_path)
    prompt, new = tokenizer.prompt("the fox \u20ac"), tokenizer.prompt("jumps over")[1:]
    assert prompt == transformers.AutoTokenizer.from_pretrained(tmp_path)("the fox \u20ac").input_ids
    assert tokenizer.text(prompt) == "the fox \u20ac" and len(prompt) > len("the fox \u20ac".encode())
    assert continuation(tokenizer, prompt, new) == " jumps over"


def test_streamed_pieces_with_byte_fallback_join_to_the_whole_text(tmp_path: Path) -> None:
    byte_fallback(tmp_path)
    tokenizer, draw = TextTokenizer(tmp_path), random.Random(0)
    pieces_of = [tokenizer.prompt(text)[1:] for text in ("\u20ac", "caf\u00e9", "\U0001f98a", "A", "the fox")]
    for _ in range(500):
        prompt = tokenizer.prompt(draw.choice(["", "the fox", "\u20ac", "a "]))
        ids: list[int] = []
        while len(ids) < 12:
            ids += draw.choice([*pieces_of, [draw.randrange(3, 259)], [2], [draw.randrange(259, tokenizer.size)]])
        stream = TextStream(tokenizer.text, tokenizer.settled, prompt)
        pieces = [*map(stream.add, ids), stream.end()]
        assert "".join(pieces) == continuation(tokenizer, prompt, ids)
