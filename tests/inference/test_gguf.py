"""A GGUF has the numbers, the tokenizer, the chat template and the end tokens of the model. tests/parity/test_llama_cpp.py reads it in llama.cpp."""

import sys

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Regex, pre_tokenizers

from glassworks.data.reading.extended import ExtendedTokenizer
from glassworks.errors import ConfigError
from glassworks.inference.export import run
from glassworks.inference.gguf import QWEN2
from glassworks.inference.language_models import open_language_model
from glassworks.models import new_tokens
from glassworks.models.pretrained.language_models import load_language_model

from .instructed import BEGIN, END, STOP, TEMPLATE, UNUSED, VOCABULARY, write_adapter, write_base

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


@pytest.mark.parametrize("kind", MODELS)
def test_how_texts_are_cut_has_llama_cpps_name(base, tmp_path, kind):
    assert value(gguf.GGUFReader(exported(base(kind), tmp_path)), "tokenizer.ggml.pre") == PRE[kind]


def test_new_tokens_are_control_tokens_and_the_head_stays_tied(base, tmp_path):
    """They take the unused rows of the base and extend its embedding; both have their trained values."""
    folder, model = base(), load_language_model(tmp_path / "data/weights/base")
    new = [f"<|new_{number}|>" for number in range(UNUSED + 2)]
    tokenizer = ExtendedTokenizer(folder, new)
    new_tokens.attach(model, tokenizer.first, len(new))
    for rows in (layer.rows.weight.data for layer in new_tokens.modules(model).values()):
        rows.normal_(generator=torch.Generator().manual_seed(2))
    adapter = write_adapter(tmp_path / "models/tuned", folder, model)
    tokenizer.save(adapter, TEMPLATE, bos=False)
    reader = gguf.GGUFReader(exported(adapter, tmp_path, "f32"))
    tokens, types = (value(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    assert len(tokens) == VOCABULARY + len(new) and tokens[VOCABULARY:] == new
    assert set(types[VOCABULARY:]) == {gguf.TokenType.CONTROL}
    [embedding] = [one.data for one in reader.tensors if one.name in ("token_embd.weight", "output.weight")]
    assert np.array_equal(embedding, model.decoder.tokens.weight.detach().numpy())
