"""A GGUF has the numbers, the tokenizer, the chat template and the end tokens of the model. llama.cpp writes the same texts where it is installed."""

import sys

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Regex, pre_tokenizers
from torch.nn import functional

from glassworks.data.messages import Message
from glassworks.errors import ConfigError
from glassworks.generation.decoding import generate
from glassworks.generation.settings import Decoding
from glassworks.inference.export import run
from glassworks.inference.gguf import QWEN2
from glassworks.inference.language_models import open_language_model
from glassworks.models.pretrained.language_models import export_language_model, load_language_model

from .instructed import BEGIN, END, STOP, TEMPLATE, TEXTS, write_adapter, write_base

gguf = pytest.importorskip("gguf")

QWEN2_CUTS = [
    pre_tokenizers.Split(Regex(QWEN2), "isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
]
MODELS = {
    "llama": ("smollm", {}),
    "qwen2": (QWEN2_CUTS, {"biases": "qkv", "tied": False}),
    "qwen3": ("gpt-2", {"head_norms": True}),
}
PRE = {"llama": "smollm", "qwen2": "qwen2", "qwen3": "gpt-2"}


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(kind="llama", **settings):
        cuts, more = MODELS[kind]
        return write_base(tmp_path / "data/weights/base", cuts, **more, **settings)

    return make


def exported(folder, tmp_path, precision="f16"):
    run(folder, tmp_path / "out", tmp_path, "gguf", precision=precision)
    return next((tmp_path / "out").glob("*.gguf"))


def value(reader, key):
    return reader.fields[key].contents()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])  # of Qwen3, transformers reads no head size from a GGUF
@torch.no_grad()
def test_transformers_reads_a_gguf_with_the_logits_of_the_model(base, tmp_path, kind):
    file, ours = exported(base(kind), tmp_path), load_language_model(tmp_path / "data/weights/base").eval()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ids = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(3))
    expected, found = ours(ids), theirs.eval()(ids).logits
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), "float16 holds these weights"


def test_pain_7_tokens_template_and_end_tokens_are_inside(base, tmp_path):
    """Of an adapter trained here, merged; its chat template writes BOS, so llama.cpp adds none."""
    folder = base()
    adapter = write_adapter(tmp_path / "models/tuned", folder, load_language_model(folder))
    reader, tokenizer = gguf.GGUFReader(exported(adapter, tmp_path)), open_language_model(adapter, tmp_path).tokenizer
    assert value(reader, "tokenizer.chat_template") == TEMPLATE
    keys = ("bos", "eos", "eot")
    assert [value(reader, f"tokenizer.ggml.{key}_token_id") for key in keys] == [
        tokenizer.id_of(token) for token in (BEGIN, END, STOP)
    ]
    assert value(reader, "tokenizer.ggml.add_bos_token") is False
    tokens, types = (value(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    assert len(tokens) == len(types) == 320
    assert tokens[:3] == [END, BEGIN, STOP] and types[:3] == [gguf.TokenType.CONTROL] * 3
    assert tokens[-1] == "[PAD319]" and types[-1] == gguf.TokenType.UNUSED
    merged = "Merged onto base (manifest"
    assert merged in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(("precision", "error"), [("f32", 0), ("f16", 0), ("q8_0", 0.01)])
def test_matrices_have_the_chosen_numbers(base, tmp_path, precision, error):
    reader = gguf.GGUFReader(exported(base(), tmp_path, precision))
    state = load_language_model(tmp_path / "data/weights/base").state_dict()
    [norm, embedding] = [
        next(one for one in reader.tensors if one.name == name) for name in ("output_norm.weight", "token_embd.weight")
    ]
    assert norm.tensor_type.name == "F32" and embedding.tensor_type.name == precision.upper()
    expected = state["decoder.tokens.weight"].numpy()
    found = gguf.quants.dequantize(embedding.data, embedding.tensor_type)
    assert np.abs(found - expected).max() <= error * np.abs(expected).max()
    assert "output.weight" not in {tensor.name for tensor in reader.tensors}, "tied"


def test_a_gguf_of_the_same_model_has_the_same_bytes(base, tmp_path):
    folder = base()
    first = exported(folder, tmp_path).read_bytes()
    run(folder, tmp_path / "again", tmp_path, "gguf")
    assert (tmp_path / "again/base-F16.gguf").read_bytes() == first


@pytest.mark.parametrize(
    ("settings", "cuts", "message"),
    [
        (
            {"position": "learned", "norm": "layer", "feed_forward": "gelu", "biases": "all", "kv_heads": None},
            "smollm",
            "a model with gpt2",
        ),
        ({"window": 9}, "smollm", "a model with sliding_window"),
        ({}, [pre_tokenizers.ByteLevel(add_prefix_space=True)], "no byte-level BPE tokenizer that cuts texts as"),
    ],
)
def test_what_llama_cpp_has_no_form_for_is_one_line(tmp_path, settings, cuts, message):
    folder = write_base(tmp_path / "base", cuts, **settings)
    with pytest.raises(ConfigError, match=message) as error:
        run(folder, tmp_path / "out", tmp_path, "gguf")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_without_the_extra_is_one_line(base, tmp_path, monkeypatch):
    folder = base()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match="install it with the extra"):
        run(folder, tmp_path / "out", tmp_path, "gguf")


def learned(folder):
    """The model of a folder after it has learned a text by heart: far apart are then the logits of a token and of all others."""
    model, tokenizer = load_language_model(folder).train(), open_language_model(folder, folder).tokenizer
    ids = torch.tensor([tokenizer.prompt(" ".join(f"{number} words {number * 7919}," for number in range(30)))[:160]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:]).backward()
        optimizer.step()
    export_language_model(model, folder, eos_token_id=0)
    return ids[0].tolist()


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_writes_the_same_first_128_greedy_tokens(base, tmp_path, kind):
    """And cuts texts into the same tokens, without a second BOS, and knows all end tokens."""
    llama_cpp = pytest.importorskip("llama_cpp")
    folder = base(kind)
    prompt = learned(folder)[:16]
    opened = open_language_model(folder, tmp_path)
    theirs = llama_cpp.Llama(str(exported(folder, tmp_path)), n_ctx=256, n_threads=1, verbose=False)
    assert theirs.metadata["tokenizer.ggml.pre"] == PRE[kind]
    for text in [*TEXTS[:3], "1 22  333\tI'M \u00e9t\u00e9's\n"]:
        assert theirs.tokenize(text.encode(), add_bos=True) == opened.tokenizer.prompt(text)
    chat = opened.template.prompt([Message(role="user", content="in the beginning")])
    rendered = f"{BEGIN}user\nin the beginning{STOP}\n{BEGIN}assistant\n"
    assert theirs.tokenize(rendered.encode(), add_bos=True, special=True) == chat
    assert all(llama_cpp.llama_vocab_is_eog(theirs._model.vocab, token) for token in opened.ends)
    [ours] = generate(opened.model, [prompt], Decoding(max_new_tokens=128), None)
    found = [token for token, _ in zip(theirs.generate(prompt, temp=0.0), range(128), strict=False)]
    assert len(ours) == 128 and found == ours
    theirs.close()
