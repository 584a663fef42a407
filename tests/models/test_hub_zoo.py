"""Language models in transformers' layout: equal in logits and greedy ids to transformers, or refused with the name of the field."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from glassworks.errors import ArtifactError, ConfigError
from glassworks.generation.cpu_step import supports
from glassworks.generation.decoding import generate
from glassworks.generation.settings import Decoding
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.hub_keys import HARMLESS, SWITCHED_OFF, HubKeys
from glassworks.models.pretrained.language_models import (
    decoder_config,
    export_language_model,
    load_language_model,
)

from ..parity.conftest import randomise

VOCABULARY = 61
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TYPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt2": (
        transformers.GPT2Config,
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "llama": (transformers.LlamaConfig, LLAMA),
    "qwen2": (transformers.Qwen2Config, LLAMA),
    "qwen3": (transformers.Qwen3Config, {**LLAMA, "head_dim": 12}),
    "smollm3": (transformers.SmolLM3Config, LLAMA),
    "mistral": (transformers.MistralConfig, {**LLAMA, "sliding_window": 7}),
    "gemma3_text": (
        transformers.Gemma3TextConfig,
        {**LLAMA, "head_dim": 12, "sliding_window": 5, "query_pre_attn_scalar": 20, "sliding_window_pattern": 2},
    ),
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
MIXED = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
WINDOWED = {"use_sliding_window": True, "sliding_window": 6}
EQUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, exact gelu": ("gpt2", {"activation_function": "gelu"}),
    "gpt2, untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt2, inner width": ("gpt2", {"n_inner": 40}),
    "gpt2, tanh by its other name": ("gpt2", {"activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-3}),
    "gpt2, reorder": ("gpt2", {"reorder_and_upcast_attn": True}),
    "llama": ("llama", {}),
    "llama, all heads": ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama, one kv head": ("llama", {"num_key_value_heads": 1}),
    "llama, attention_bias": ("llama", {"attention_bias": True}),
    "llama, mlp_bias": ("llama", {"mlp_bias": True}),
    "llama, both biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, head_dim": ("llama", {"head_dim": 16}),
    "llama, eps and theta": ("llama", {"rms_norm_eps": 1e-2, "rope_parameters": {"rope_theta": 500.0}}),
    "llama, gelu gate": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "llama 3": ("llama", {"rope_parameters": {**LLAMA3, "rope_theta": 500_000.0}}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama, yarn": ("llama", {"rope_parameters": {**YARN, "rope_theta": 1e4}}),
    "llama, yarn with betas": (
        "llama",
        {"rope_parameters": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False, "rope_theta": 1e4}},
    ),
    "llama, yarn with mscale": (
        "llama",
        {"rope_parameters": {**YARN, "mscale": 1.2, "mscale_all_dim": 0.7, "rope_theta": 1e4}},
    ),
    "llama, yarn with attention_factor": (
        "llama",
        {"rope_parameters": {**YARN, "attention_factor": 1.3, "rope_theta": 1e4}},
    ),
    "qwen2": ("qwen2", {}),
    "qwen2, window in the upper layers": ("qwen2", {**WINDOWED, "max_window_layers": 2}),
    "qwen2, window in all layers": ("qwen2", {**WINDOWED, "max_window_layers": 0}),
    "qwen2, layer_types": ("qwen2", {**WINDOWED, "layer_types": MIXED}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": {**YARN, "rope_theta": 1e6}}),
    "qwen3": ("qwen3", {}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True, "head_dim": 8}),
    "qwen3, attention_bias": ("qwen3", {"attention_bias": True}),
    "qwen3, layer_types": ("qwen3", {**WINDOWED, "layer_types": MIXED}),
    "smollm3": ("smollm3", {}),
    "smollm3, every second layer": ("smollm3", {"no_rope_layer_interval": 2}),
    "smollm3, no_rope_layers": ("smollm3", {"no_rope_layers": [0, 1, 0, 1]}),
    "smollm3, all rotated": ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}),
    "smollm3, window": ("smollm3", {**WINDOWED, "no_rope_layer_interval": 2}),
    "smollm3, biases": ("smollm3", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    "mistral": ("mistral", {}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "mistral, head_dim": ("mistral", {"head_dim": 16, "sliding_window": 3}),
    "gemma3": ("gemma3_text", {}),
    "gemma3, untied": ("gemma3_text", {"tie_word_embeddings": False}),
    "gemma3, pattern of 6": ("gemma3_text", {"sliding_window_pattern": 6}),
    "gemma3, layer_types": ("gemma3_text", {"layer_types": MIXED}),
    "gemma3, attention_bias": ("gemma3_text", {"attention_bias": True}),
    "gemma3, no window used": ("gemma3_text", {"layer_types": ["full_attention"] * 4}),
    "gemma3, thetas": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            }
        },
    ),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2, scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    "gpt2, unscaled": ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
    "gpt2, relu": ("gpt2", {"activation_function": "relu"}, "activation_function"),
    "gpt2, cross-attention": ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    "llama, relu": ("llama", {"hidden_act": "relu"}, "hidden_act"),
    "llama, dynamic": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type"),
    "llama, part of a head": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "llama, part of a head, inside": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "rope_parameters.partial_rotary_factor",
    ),
    "llama, a window": ("llama", {"sliding_window": 8}, "sliding_window"),
    "llama, quantized": ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    "llama, an unknown key": ("llama", {"embedding_multiplier": 12.0}, "embedding_multiplier"),
    "llama, an unknown rope key": (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "offset": 3}},
        "rope_scaling.offset",
    ),
    "llama, llama3 without its factor": (
        "llama",
        {"rope_scaling": {name: value for name, value in LLAMA3.items() if name != "low_freq_factor"}},
        "rope_scaling.low_freq_factor",
    ),
    "llama, a factor that is a word": ("llama", {"rope_scaling": {**YARN, "factor": "four"}}, "rope_scaling.factor"),
    "llama, no width": ("llama", {"hidden_size": None}, "hidden_size"),
    "llama, depth 0": ("llama", {"num_hidden_layers": 0}, "num_hidden_layers"),
    "llama, interleaved": ("llama", {"rope_interleaved": True}, "rope_interleaved"),
    "qwen2, biases": ("qwen2", {"attention_bias": True}, "attention_bias"),
    "qwen2, layer_types of another kind": ("qwen2", {"layer_types": ["chunked_attention"] * 4}, "layer_types"),
    "qwen2, too few layer_types": ("qwen2", {"layer_types": MIXED[:3]}, "layer_types"),
    "qwen2, a window that is off": ("qwen2", {"use_sliding_window": False, "layer_types": MIXED}, "layer_types"),
    "mistral, layer_types": ("mistral", {"layer_types": MIXED}, "layer_types"),
    "smollm3, no_rope_layers": ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
    "gemma3, both directions": ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "gemma3, soft cap": ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "gemma3, soft cap of scores": ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "gemma3 with images": ("gemma3_text", {"model_type": "gemma3"}, "gemma3"),
    "phi": ("llama", {"model_type": "phi3"}, "phi3"),
}


def make(name: str, directory: Path, **changes: Any) -> Any:
    """A small random model of transformers, saved in a directory."""
    kind, settings = TYPES[name]
    config = kind(**{**settings, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(model)
    model.save_pretrained(directory)
    return model


def edit(directory: Path, **changes: Any) -> None:
    """Change keys of config.json; None takes a key out."""
    config = {**json.loads((directory / "config.json").read_text()), **changes}
    (directory / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )


def old_form(directory: Path) -> None:
    """Write rotary positions as configurations on the hub do, without rope_parameters and layer_types that follow from other keys."""
    config = json.loads((directory / "config.json").read_text())
    rope = config.pop("rope_parameters", None)
    if rope and "full_attention" in rope:
        full, local = rope["full_attention"], rope["sliding_attention"]
        config |= {"rope_theta": full.pop("rope_theta"), "rope_local_base_freq": local["rope_theta"]}
        config["rope_scaling"] = None if full["rope_type"] == "default" else full
    elif rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    (directory / "config.json").write_text(json.dumps(config))


def compare(directory: Path, model: Any) -> LanguageModel:
    """Hold logits and greedy ids against transformers, alone, in a padded batch, through the CPU step and the forward pass."""
    ours = load_language_model(directory).eval()
    ids = torch.randint(0, VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = model(ids).logits
        torch.testing.assert_close(ours(ids), theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    prompts = [[1, 5, 9, 33, 12, 7, 40, 3, 28, 17], [1, 50], [4, 4, 19, 60, 2, 11]]
    found = generate(ours, prompts, Decoding(max_new_tokens=20), [])
    assert supports(ours.decoder)
    for prompt, text in zip(prompts, found, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert text == expected[0, len(prompt) :].tolist()
        assert text == generate(ours, [prompt], Decoding(max_new_tokens=20), [])[0]
    ours.decoder.register_forward_hook(lambda *_: None)
    assert not supports(ours.decoder)
    assert found == generate(ours, prompts, Decoding(max_new_tokens=20), [])
    return load_language_model(directory).eval()


@pytest.mark.parametrize("name", EQUAL)
def test_a_model_that_is_read_equals_transformers_and_returns_to_it(name: str, tmp_path: Path) -> None:
    kind, changes = EQUAL[name]
    model = make(kind, tmp_path / "theirs", **changes)
    ours = compare(tmp_path / "theirs", model)
    old_form(tmp_path / "theirs")
    assert decoder_config(json.loads((tmp_path / "theirs/config.json").read_text())) == ours.config
    export_language_model(ours, tmp_path / "again", pad_token_id=0)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    ids = torch.randint(0, VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    ours.save(tmp_path / "saved")
    assert LanguageModel.load(tmp_path / "saved").config == ours.config


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_is_not_read_is_refused_with_the_name_of_the_field(name: str, tmp_path: Path) -> None:
    kind, changes, field = REFUSED[name]
    make(kind, tmp_path)
    old_form(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises((ConfigError, ArtifactError), match=field) as error:
        load_language_model(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", TYPES)
def test_every_key_of_transformers_configuration_is_read_or_listed_as_harmless(name: str, monkeypatch: Any) -> None:
    """And every default that we take for a missing key is that of transformers."""
    read: set[str] = set()
    finish = HubKeys.finish
    monkeypatch.setattr(HubKeys, "finish", lambda keys: (not keys.inside and read.update(keys.read), finish(keys)))
    kind, settings = TYPES[name]
    whole = kind(**settings).to_dict()
    expected = decoder_config(whole)
    unknown = whole.keys() - read - HARMLESS - SWITCHED_OFF.keys()
    assert not unknown, f"neither read nor harmless: {sorted(unknown)}"
    fields = {field for field in kind.__dataclass_fields__ if not field.startswith("_")}
    assert not {one for one in fields & whole.keys() if one not in read | HARMLESS | SWITCHED_OFF.keys()}
    changed = dict(whole)
    for key in sorted(read & whole.keys()):
        without = {one: value for one, value in changed.items() if one != key}
        try:
            ours = decoder_config(without)
        except (ConfigError, ArtifactError):
            continue  # a missing key that is refused is no guess
        given = {one: value for one, value in without.items() if one not in ("layer_types", "rope_parameters")}
        theirs = decoder_config(kind(**(given if key in ("layer_types", "rope_parameters") else without)).to_dict())
        assert ours.model_copy(update={"max_tokens": 0}) == theirs.model_copy(update={"max_tokens": 0}), key
    assert expected.max_tokens == 64


def test_a_head_that_is_not_the_embedding_is_not_dropped(tmp_path: Path) -> None:
    model = make("llama", tmp_path, tie_word_embeddings=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file, {"format": "pt"})
    compare(tmp_path, model)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] * 1.01}, file, {"format": "pt"})
    with pytest.raises(ArtifactError, match=r"lm_head\.weight: tie_word_embeddings is true, but"):
        load_language_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "extra", "good"),
    [
        ("gpt2", {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()}, True),
        ("gpt2", {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}, True),
        ("gpt2", {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64)}, False),
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": 1e4 ** -(torch.arange(4) / 4)}, True),
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": 1e6 ** -(torch.arange(4) / 4)}, False),
    ],
)
def test_a_constant_among_the_weights_is_dropped_only_where_it_is_the_one_that_we_compute(
    name: str, extra: dict[str, torch.Tensor], good: bool, tmp_path: Path
) -> None:
    model = make(name, tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), **extra}, file, {"format": "pt"})
    if good:
        compare(tmp_path, model)
    else:
        with pytest.raises(ArtifactError, match=r"bias: not a causal mask|inv_freq: not the frequencies"):
            load_language_model(tmp_path)


@pytest.mark.parametrize(("prefix", "hint"), [("_orig_mod.", "torch.compile"), ("module.", "DistributedDataParallel")])
def test_the_names_of_a_wrapped_model_get_a_hint(prefix: str, hint: str, tmp_path: Path) -> None:
    make("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(ArtifactError, match=f"begin with {prefix}, from {hint}"):
        load_language_model(tmp_path)


@pytest.mark.parametrize("name", ["gemma3_text", "mistral", "smollm3"])
def test_packed_texts_with_a_window_have_the_logits_that_they_have_alone(name: str, tmp_path: Path) -> None:
    model = make(name, tmp_path)
    ours = load_language_model(tmp_path).eval()
    ids = torch.randint(0, VOCABULARY, (1, 40), generator=torch.Generator().manual_seed(3))
    lengths = [7, 20, 13]
    documents = torch.tensor([[number for number, length in enumerate(lengths) for _ in range(length)]])
    with torch.no_grad():
        alone = torch.cat([model(part).logits for part in ids.split(lengths, dim=1)], dim=1)
        torch.testing.assert_close(ours(ids, documents), alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))
