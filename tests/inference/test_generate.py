"""`glassworks generate` continues prompts, and says in one line what is wrong."""

import io
import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from glassworks.artifacts.digests import write_json
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.language_models import export_language_model
from glassworks.models.settings.text_decoder import TextDecoder

DRAWN = ("--temperature", 1, "--max-new-tokens", 10)


def rows(output):
    return [json.loads(line) for line in output.strip().split("\n")]


def test_a_single_prompt_is_streamed_and_the_same_as_its_json(writer, ask):
    code, shown, _ = ask("generate", writer, "God \u20ac", *DRAWN)
    (row,) = rows(ask("generate", writer, "God \u20ac", *DRAWN, "--json")[1])
    assert code == 0 and shown == row["prompt"] + row["text"] + "\n"
    assert row["prompt"] == "God \u20ac" and row["number"] == 0 and 0 < row["tokens"] <= 10


def test_a_text_is_the_same_whatever_else_is_asked(writer, ask):
    alone = rows(ask("generate", writer, "a", *DRAWN, "--json")[1])[0]
    together = rows(ask("generate", writer, "bcd", "a", "", *DRAWN, "--json")[1])
    assert together[1] == alone and [row["prompt"] for row in together] == ["bcd", "a", ""]


def test_several_texts_of_a_prompt_differ_and_depend_on_the_seed(writer, ask):
    texts = [row["text"] for row in rows(ask("generate", writer, "a", *DRAWN, "--samples", 3, "--json")[1])]
    assert len(set(texts)) == 3
    other = rows(ask("generate", writer, "a", *DRAWN, "--seed", 5, "--json")[1])
    assert other[0]["text"] not in texts


def test_prompts_come_from_a_file_and_from_standard_input(writer, ask, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    read = rows(ask("generate", writer, "zero", "--file", "prompts.txt", "--json")[1])
    assert [row["prompt"] for row in read] == ["zero", "one", "two"]
    monkeypatch.setattr("sys.stdin", io.StringIO("three\n"))
    assert rows(ask("generate", writer, "--file", "-", "--json")[1])[0]["prompt"] == "three"


def test_no_prompt_begins_a_new_text(writer, ask):
    code, shown, _ = ask("generate", writer, *DRAWN)
    assert code == 0 and len(shown) > 1


@pytest.mark.parametrize("beams", [1, 4])
def test_limits_are_kept(writer, ask, beams):
    limits = ("--max-new-tokens", 6, "--min-new-tokens", 6, "--beams", beams, "--json")
    assert rows(ask("generate", writer, "a", *limits)[1])[0]["tokens"] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["models/wirter", "a"], 4, "models/wirter: no such model folder; did you mean models/writer?"),
        (["tokenizer", "a"], 4, "tokenizer: no config.json in this folder, so it holds no model"),
        (
            ["models/writer", "x" * 40],
            3,
            "prompt 1: its 41 tokens leave no room in the model's context of 32; shorten it",
        ),
        (["models/writer", "a", "--top-k", "5"], 2, "top_k limits random draws"),
        (["models/writer", "a", "--temperature", "-1"], 2, "--temperature -1.0: should be greater than or equal to 0"),
        (["models/writer", "a", "--beams", "2", "--temperature", "1"], 2, "set only one of them"),
        (["models/writer", "a", "--samples", "2"], 2, "--samples: without --temperature nothing is drawn"),
        (["models/writer", "--file", "none.txt"], 3, "none.txt: no such file of prompts"),
    ],
)
def test_what_cannot_be_is_one_clear_line(writer, ask, arguments, code, message):
    found, shown, error = ask("generate", *arguments)
    assert found == code and shown == ""
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_captioner_is_told_apart(describer, ask):
    assert ask("generate", describer, "a")[2] == (
        "error: models/describer: this model captions images; `glassworks caption models/describer IMAGE` asks it\n"
    )


def test_a_vocabulary_that_does_not_match_the_tokenizer_is_one_clear_line(writer, ask):
    torch.manual_seed(0)
    LanguageModel(TextDecoder(width=16, depth=1, heads=2, max_tokens=32), 200).save(writer)
    code, _, error = ask("generate", writer, "a")
    assert code == 4 and error.count("\n") == 1
    assert "models/writer: its vocabulary of 200 does not match the tokenizer, which has 259 tokens" in error


def test_a_model_without_its_tokenizer_is_one_clear_line(writer, ask):
    (writer / "tokenizer.json").unlink()
    code, _, error = ask("generate", writer, "a")
    assert code == 4 and error.startswith("error: models/writer: no tokenizer.json there")


def test_a_published_model_begins_texts_as_its_own_tokenizer_does(writer, ask):
    """In GPT-2's layout: no BOS before a prompt, and, when the tokenizer names none, no text from nothing."""
    model = LanguageModel.load(writer).eval()
    tokenizer = Tokenizer.from_file(str(writer / "tokenizer.json"))
    export_language_model(model, writer)
    (row,) = rows(ask("generate", writer, "ab", "--max-new-tokens", 1, "--json")[1])
    with torch.no_grad():
        likeliest = model(torch.tensor([tokenizer.encode("ab").ids]))[0, -1].argmax().item()
    assert row["text"] == tokenizer.decode([likeliest])
    write_json(writer / "tokenizer_config.json", {"eos_token": "<|eos|>"})
    code, _, error = ask("generate", writer, "")
    assert code == 3 and "the prompt is empty, and the tokenizer of models/writer names no BOS" in error


def test_the_sampling_defaults_of_a_published_model_apply_as_in_transformers(writer, ask):
    """A user's options come first; what is applied, and what is not, is said in one line."""

    def text(*arguments, **generation):
        write_json(writer / "generation_config.json", {"eos_token_id": 2, **generation})
        code, out, error = ask("generate", writer, "ab", "--max-new-tokens", 12, *arguments)
        assert code == 0, error
        return out, error.removeprefix("note: models/writer/generation_config.json: ").strip()

    greedy, said = text()
    assert said == ""
    drawn = text("--temperature", 9.5, "--top-k", 50, "--top-p", 0.9)[0]
    sampling = {"do_sample": True, "temperature": 9.5, "top_p": 0.9}
    assert drawn != greedy and text(**sampling) == (drawn, "--temperature 9.5, --top-k 50, --top-p 0.9")
    assert text("--temperature", 0, **sampling) == (greedy, "")
    assert text("--beams", 1, "--top-k", 5, **sampling)[1] == "--temperature 9.5, --top-p 0.9"
    assert text(**{**sampling, "do_sample": False}) == (greedy, "")
    assert text(do_sample=True, top_k=0)[0] == text("--temperature", 1.0)[0]
    searched = text("--beams", 3, "--length-penalty", 1.0)[0]
    assert text(num_beams=3) == (searched, "--beams 3, --length-penalty 1.0")
    assert text(no_repeat_ngram_size=2, typical_p=1.0, suppress_tokens=None)[1] == "not applied: no_repeat_ngram_size"
    assert text(max_length=64, min_length=0)[1] == "not applied: max_length"
    write_json(writer / "generation_config.json", {"eos_token_id": 2, "repetition_penalty": "high"})
    code, _, error = ask("generate", writer, "ab")
    assert code == 2 and error.strip().endswith("repetition_penalty is 'high', not a number")


def test_a_repetition_penalty_of_a_published_model_gives_the_text_of_transformers(writer, ask):
    export_language_model(LanguageModel.load(writer).eval(), writer)
    write_json(writer / "generation_config.json", {"eos_token_id": 2, "pad_token_id": 0, "repetition_penalty": 1.7})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(writer).eval()
    tokenizer = Tokenizer.from_file(str(writer / "tokenizer.json"))
    prompt = tokenizer.encode("abcab").ids
    ids = theirs.generate(torch.tensor([prompt]), max_new_tokens=20)[0].tolist()
    plain = theirs.generate(torch.tensor([prompt]), max_new_tokens=20, repetition_penalty=1.0)[0].tolist()
    (row,) = rows(ask("generate", writer, "abcab", "--max-new-tokens", 20, "--json")[1])
    assert ids != plain and row["text"] == tokenizer.decode(ids)[len("abcab") :]
