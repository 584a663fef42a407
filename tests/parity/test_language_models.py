"""GPT-2, SmolLM2 and Qwen2.5: ours and transformers' with the same weights, loaded, saved, loaded again."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from glassworks.errors import ArtifactError, ConfigError
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.language_models import decoder_config, export_language_model, load_language_model
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.text_decoder import TextDecoder as Decoder

from .conftest import randomise

RANDOM = "random, seed 0"
QWEN = {
    "vocab_size": 151_936,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
GPT2 = transformers.GPT2Config()
SMOLLM2 = transformers.LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_theta=1e5,
    tie_word_embeddings=True,
)
QWEN_HALF = transformers.Qwen2Config(
    hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, **QWEN
)
QWEN_ONE_AND_A_HALF = transformers.Qwen2Config(
    hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, **QWEN
)
REAL = {"GPT-2": GPT2, "SmolLM2-135M": SMOLLM2, "Qwen2.5-0.5B": QWEN_HALF, "Qwen2.5-1.5B": QWEN_ONE_AND_A_HALF}
PARAMETERS = {
    "GPT-2": 124_439_808,
    "SmolLM2-135M": 134_515_008,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
}
"""Of the published models."""
SMALLER = {
    "GPT-2": {"n_layer": 6, "vocab_size": 5003},
    "SmolLM2-135M": {"num_hidden_layers": 8, "vocab_size": 5003},
    "Qwen2.5-0.5B": {"num_hidden_layers": 4, "vocab_size": 5003},
    "Qwen2.5-1.5B": {"num_hidden_layers": 2, "vocab_size": 5003},
}


def theirs(name, **changes):
    """transformers' model with the real widths and fewer layers."""
    config = type(REAL[name])(**{**REAL[name].to_dict(), "layer_types": None, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomise(model)
    return model


def tokens(vocabulary, rows=2, length=40):
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def small_qwen(tmp_path):
    """A directory with a tiny Qwen2."""
    changes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    theirs("Qwen2.5-0.5B", vocab_size=50, **changes).save_pretrained(tmp_path / "qwen")
    return tmp_path / "qwen"


@pytest.mark.parametrize("name", REAL)
@torch.no_grad()
def test_logits_equal_those_of_transformers(name, tmp_path, compare):
    model, ids = theirs(name, **SMALLER[name]), tokens(5003)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_language_model(tmp_path / "theirs").eval()
    layers = len(ours.decoder.blocks)
    compare(ours(ids), model(ids).logits, name, RANDOM, f"logits, {layers} layers of the real width, 5,003 tokens")
    export_language_model(ours, tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert type(again) is type(model)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    assert torch.equal(model(ids).logits, again(ids).logits)


@pytest.mark.parametrize("name", REAL)
def test_the_real_shape_has_as_many_parameters_as_the_published_model(name):
    with torch.device("meta"):
        model = LanguageModel(decoder_config(REAL[name].to_dict()), REAL[name].vocab_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@torch.no_grad()
def test_gpt2_loads_from_the_hubs_own_names(tmp_path):
    model, ids = theirs("GPT-2", n_layer=2, n_embd=48, vocab_size=60), tokens(60)
    model.save_pretrained(tmp_path)
    tensors = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 1024, 1024).tril() for layer in range(2)}
    save_file({**tensors, **masks}, tmp_path / "model.safetensors", {"format": "pt"})
    ours = load_language_model(tmp_path).eval()
    torch.testing.assert_close(ours(ids), model(ids).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_shards_are_read_together(small_qwen, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(small_qwen)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    whole, shards = load_language_model(small_qwen), load_language_model(tmp_path / "shards")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, shards.state_dict()[name])
    next((tmp_path / "shards").glob("model-00002*")).unlink()
    with pytest.raises(ArtifactError, match=r"lists 'model-00002.*', which is not there"):
        load_language_model(tmp_path / "shards")


@torch.no_grad()
def test_weights_of_16_bits_are_read_as_float32(small_qwen):
    file = small_qwen / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    assert {tensor.dtype for tensor in load_language_model(small_qwen).parameters()} == {torch.float32}


@pytest.mark.parametrize("biases", ["all", "none", "qkv"])
@torch.no_grad()
def test_a_model_trained_here_opens_in_transformers(tmp_path, biases, compare):
    llama = {
        "position": "rotary",
        "norm": "rms",
        "feed_forward": "swiglu",
        "kv_heads": 2,
        "feed_forward_width": 80,
        "tied": False,
    }
    torch.manual_seed(0)
    ours = LanguageModel(
        TextDecoder(width=32, heads=4, depth=2, biases=biases, **({} if biases == "all" else llama)), 70
    ).eval()
    randomise(ours)
    export_language_model(ours, tmp_path, eos_token_id=2)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert opened.config.eos_token_id == 2
    kind, ids = type(opened).__name__, tokens(70, length=30)
    compare(ours(ids), opened(ids).logits, f"exported as {kind}", RANDOM, "logits, a small model of ours")
    back = load_language_model(tmp_path)
    assert back.config == ours.config
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name])


def test_a_saved_model_of_ours_loads_the_same_way(tmp_path):
    model = LanguageModel(TextDecoder(width=32, heads=2, depth=1), 50)
    model.save(tmp_path)
    back = load_language_model(tmp_path)
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_what_transformers_has_no_architecture_for_is_refused(tmp_path):
    model = LanguageModel(TextDecoder(width=32, heads=2, depth=1, norm="rms", biases="none"), 50)
    with pytest.raises(
        ConfigError, match=r"no architecture with position learned, norm rms.*exported are GPT-2 \(learned"
    ):
        export_language_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "a model of type 'mamba'; language models are read of gpt2, llama, qwen2"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', which our decoder does not have"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6}}, "rope_parameters.rope_type is 'dynamic'"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_size": None}, "without 'hidden_size'"),
    ],
)
def test_an_unknown_architecture_or_setting_is_one_line(small_qwen, change, message):
    config = {**json.loads((small_qwen / "config.json").read_text()), **change}
    config = {name: value for name, value in config.items() if value is not None}
    (small_qwen / "config.json").write_text(json.dumps(config))
    with pytest.raises((ArtifactError, ConfigError), match=message):
        load_language_model(small_qwen)


def test_missing_extra_and_misshapen_tensors_are_listed_by_their_published_names(small_qwen):
    file = small_qwen / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.self_attn.k_proj.bias"]
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(3)
    tensors["model.norm.weight"] = torch.ones(33)
    save_file(tensors, file)
    with pytest.raises(ArtifactError) as error:
        load_language_model(small_qwen)
    for part in (
        "missing layers.1.self_attn.k_proj.bias",
        "extra layers.2.mlp.up_proj.weight",
        r"norm.weight is [33], not [32]",
    ):
        assert part in str(error.value)


def test_a_damaged_file_is_one_line(small_qwen):
    file = small_qwen / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        load_language_model(small_qwen)
    file.unlink()
    with pytest.raises(ArtifactError, match=r"neither model.safetensors nor .* there"):
        load_language_model(small_qwen)


@pytest.mark.parametrize("name", ["GPT-2", "Qwen2.5-0.5B"])
@torch.no_grad()
def test_packed_texts_have_the_logits_they_have_alone(name, tmp_path, compare):
    sizes = (
        {"n_layer": 3, "n_embd": 96}
        if name == "GPT-2"
        else {"hidden_size": 112, "num_hidden_layers": 3, "intermediate_size": 200}
    )
    model = theirs(name, vocab_size=500, **sizes)
    model.save_pretrained(tmp_path)
    ours, ids = load_language_model(tmp_path).eval(), tokens(500, rows=1, length=40)
    lengths = [7, 20, 13]
    documents = torch.tensor([[number for number, length in enumerate(lengths) for _ in range(length)]])
    alone = torch.cat([model(part).logits for part in ids.split(lengths, dim=1)], dim=1)
    packed = ours(ids, documents)
    compare(packed, alone, f"{name}, packed", RANDOM, "logits of three packed texts, and of each alone in transformers")
    assert (packed - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_defect_000_3_qwen_has_its_own_norm_feed_forward_heads_biases_and_angles():
    config = decoder_config(QWEN_HALF.to_dict())
    assert (config.norm, config.norm_eps, config.feed_forward, config.inner_width) == ("rms", 1e-6, "swiglu", 4864)
    assert (config.heads, config.kv_heads, config.biases, config.rope_theta) == (14, 2, "qkv", 1e6)
    assert config.tied and config.max_tokens == 32_768
    with torch.device("meta"):
        block = Decoder(config, 100).blocks[0]
    assert block.attention.qkv.bias is not None and block.attention.out.bias is None
    assert block.feed_forward.inner.bias is None and block.feed_forward.out.bias is None


@torch.no_grad()
def test_defect_004_3_gpt2s_ln_2_is_the_norm_before_the_feed_forward_also_with_cross_attention(tmp_path):
    """The document loads it into the norm before cross-attention; the pretrained feed-forward then reads an input of another scale."""
    model = theirs("GPT-2", n_layer=2, n_embd=48, vocab_size=60)
    model.save_pretrained(tmp_path)
    language = load_language_model(tmp_path)
    decoder = Decoder(language.config, 60, [24, 24]).eval()
    decoder.load_state_dict(language.decoder.state_dict(), strict=False)
    for block in decoder.blocks:
        block.gate.zero_()
    images, ids = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(2)), tokens(60)
    seen = decoder(ids, decoder.encode_memory([images]))
    torch.testing.assert_close(seen, model(ids).logits, rtol=1e-4, atol=1e-4)
    for block, published in zip(decoder.blocks, model.transformer.h, strict=True):
        assert torch.equal(block.feed_forward_norm.weight, published.ln_2.weight)
        block.cross_norm.weight.copy_(published.ln_2.weight)  # what the document does
        block.feed_forward_norm.weight.fill_(1.0)
    wrong = decoder(ids, decoder.encode_memory([images]))
    assert (wrong - seen).abs().max() > 0.05 * seen.abs().max()
