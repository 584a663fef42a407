"""The CPU step computes what the forward pass computes, and is used only for decoders of which that is true."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn.utils import parametrize

from glassworks.generation.cpu_step import CpuStep, small_batch_linear, supports
from glassworks.generation.decoding import generate, next_logits
from glassworks.generation.settings import Decoding
from glassworks.models.adapters import adapter_tensors, attach, merge
from glassworks.models.language_model import LanguageModel
from glassworks.models.memory import gather
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.text_decoder import TextDecoder as Config
from glassworks.models.text_decoder import TextDecoder

KINDS = {
    "gpt2": {"feed_forward": "gelu_tanh"},
    "untied": {"tied": False},
    "llama": {"position": "rotary", "norm": "rms", "feed_forward": "swiglu", "biases": "none", "kv_heads": 2},
    "qwen": {
        "position": "rotary",
        "norm": "rms",
        "feed_forward": "swiglu",
        "biases": "qkv",
        "kv_heads": 1,
        "tied": False,
    },
    "no biases": {"biases": "none"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("tokens", [4, 100])  # not worth repacking, and worth it
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("has_memory", [False, True])
def test_a_step_is_the_decoders_own_function(kind, rows, tokens, padded, has_memory):
    torch.manual_seed(0)
    config = Config(width=32, depth=2, heads=4, max_tokens=12, **KINDS[kind])
    decoder = TextDecoder(config, 50, [20, 20] if has_memory else ()).eval()
    for parameter in decoder.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))  # biases and norms that count
    ids = torch.randint(0, 50, (rows, 9))
    padding = torch.arange(rows) % 4 if padded else None
    with torch.inference_mode():
        memory = decoder.encode_memory([torch.randn(rows, 6, 20)]) if has_memory else None
        caches = [decoder.new_cache(rows, padding, 9) for _ in range(2)]
        for cache in caches:
            decoder.hidden(ids[:, :4], memory, cache)
        step = next_logits(decoder, rows, tokens)
        assert isinstance(step, CpuStep)
        for place in range(4, 9):
            expected = decoder(ids[:, place : place + 1], memory, caches[0])[:, 0]
            torch.testing.assert_close(step(ids[:, place], memory, caches[1]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24, 16), (2048, 512)])
@pytest.mark.parametrize("by_columns", [True, False])
def test_a_linear_map_made_for_several_rows_is_right_for_any_number(rows, bias, shape, by_columns):
    torch.manual_seed(0)
    linear = torch.nn.Linear(shape[1], shape[0], bias)
    gather(linear, for_decoding=by_columns)
    made = small_batch_linear(linear.weight, linear.bias, rows, True)
    with torch.inference_mode():
        for count in (1,) if rows == 1 else (1, rows, 3, 15):
            x = torch.randn(count, shape[1])
            torch.testing.assert_close(torch.from_numpy(made(x.numpy())), linear(x), rtol=1e-4, atol=1e-4)


def test_a_decoder_in_another_precision_uses_its_forward_pass():
    decoder = TextDecoder(Config(width=32, depth=1, heads=2, max_tokens=12), 50).to(torch.bfloat16).eval()
    cache = decoder.new_cache(3)
    with torch.inference_mode():
        expected = decoder(torch.tensor([[5], [6], [7]]))[:, 0]
        assert torch.equal(next_logits(decoder, 3, 100)(torch.tensor([5, 6, 7]), None, cache), expected)
    assert cache.length == 1


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return 2 * weight


class DoubledLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def _adapt(decoder):
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["qkv", "out", "inner"], init_lora_weights=False)
    inject_adapter_in_model(config, decoder)


def _replace_linear(decoder):
    feed_forward = decoder.blocks[0].feed_forward
    old = feed_forward.out
    feed_forward.out = DoubledLinear(old.in_features, old.out_features, bias=False)
    feed_forward.out.load_state_dict(old.state_dict())


def _replace_parameter(decoder):
    class Quantized(nn.Parameter):
        pass

    norm = decoder.norm
    norm.weight = Quantized(norm.weight.detach())


def _attach(kind):
    def change(decoder):
        attach(decoder, Adapter(kind=kind, rank=4, alpha=32), seed=0)
        for name, tensor in adapter_tensors(decoder).items():
            if "lora_A" not in name:
                tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)

    return change


CHANGES = {
    "peft": _adapt,
    "LoRA": _attach("lora"),
    "rsLoRA": _attach("rslora"),
    "DoRA": _attach("dora"),
    "subclass": _replace_linear,
    "forward hook": lambda decoder: decoder.blocks[1].attention.out.register_forward_hook(lambda *call: 2 * call[-1]),
    "pre-hook": lambda decoder: decoder.norm.register_forward_pre_hook(lambda _, given: (given[0].flip(-1),)),
    "parametrization": lambda decoder: parametrize.register_parametrization(
        decoder.blocks[0].attention.qkv, "weight", Doubled()
    ),
    "spectral norm": lambda decoder: nn.utils.spectral_norm(decoder.blocks[0].attention.out),
    "replaced forward": lambda decoder: setattr(decoder.blocks[0].feed_forward, "forward", lambda x: 3 * x),
}
"""Each makes a decoder compute something else than its weights alone say."""


@pytest.fixture
def language_model():
    torch.manual_seed(0)
    model = LanguageModel(Config(width=32, depth=2, heads=4, max_tokens=32, **KINDS["llama"]), 50).eval()
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    return model


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_decoder_decodes_by_its_forward_pass(language_model, change):
    plain = generate(language_model, [[1, 5, 9]], Decoding(max_new_tokens=12), None)[0]
    CHANGES[change](language_model.decoder)
    language_model.eval()
    assert not supports(language_model.decoder)

    (found,) = generate(language_model, [[1, 5, 9]], Decoding(max_new_tokens=12), None)
    ids = [1, 5, 9]
    with torch.no_grad():
        for _ in range(12):
            ids.append(int(language_model(torch.tensor([ids]))[0, -1].argmax()))
    assert found == ids[3:] != plain

    decoder, ids = language_model.decoder, torch.tensor([[1, 5, 9, 7], [1, 6, 2, 2]])
    with torch.inference_mode():
        cache = decoder.new_cache(2, None, 8)
        decoder.hidden(ids[:, :3], None, cache)
        step = next_logits(decoder, 2, 8)(ids[:, 3], None, cache)
        torch.testing.assert_close(step, language_model(ids)[:, -1], rtol=1e-4, atol=1e-4)


def test_only_plain_decoders_in_eval_mode_take_the_cpu_step(language_model):
    decoder = language_model.decoder
    assert supports(decoder)
    decoder.blocks[0].train()
    assert not supports(decoder)
    decoder.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not supports(decoder)
    _replace_parameter(decoder)
    assert not supports(decoder)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_a_merged_adapter_takes_the_cpu_step_again(language_model, kind):
    gather(language_model, for_decoding=True)
    _attach(kind)(language_model.decoder)
    adapted = generate(language_model, [[1, 5, 9]], Decoding(max_new_tokens=12), None)
    merge(language_model)
    assert supports(language_model.decoder)
    assert generate(language_model, [[1, 5, 9]], Decoding(max_new_tokens=12), None) == adapted
