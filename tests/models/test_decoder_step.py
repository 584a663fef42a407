"""One step of decoding is the decoder's own function, for every kind of decoder and every number of rows."""

import pytest
import torch

from glassworks.config.model import TextDecoder as Config
from glassworks.models.decoder_step import few_rows
from glassworks.models.memory import gather
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
@pytest.mark.parametrize("sees", [False, True])
def test_a_step_is_the_decoders_own_function(kind, rows, tokens, padded, sees):
    torch.manual_seed(0)
    config = Config(width=32, depth=2, heads=4, max_tokens=12, **KINDS[kind])
    decoder = TextDecoder(config, 50, [20, 20] if sees else ()).eval()
    for parameter in decoder.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))  # biases and norms that count
    ids = torch.randint(0, 50, (rows, 9))
    padding = torch.arange(rows) % 4 if padded else None
    with torch.inference_mode():
        memory = decoder.remember([torch.randn(rows, 6, 20)]) if sees else None
        caches = [decoder.new_cache(rows, padding, 9) for _ in range(2)]
        for cache in caches:
            decoder.hidden(ids[:, :4], memory, cache)
        step = decoder.stepper(rows, tokens)
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
    made = few_rows(linear.weight, linear.bias, rows, True)
    with torch.inference_mode():
        for count in (1,) if rows == 1 else (1, rows, 3, 15):
            x = torch.randn(count, shape[1])
            torch.testing.assert_close(torch.from_numpy(made(x.numpy())), linear(x), rtol=1e-4, atol=1e-4)


def test_a_decoder_in_another_precision_steps_by_its_own_forward():
    decoder = TextDecoder(Config(width=32, depth=1, heads=2, max_tokens=12), 50).to(torch.bfloat16).eval()
    cache = decoder.new_cache(3)
    with torch.inference_mode():
        expected = decoder(torch.tensor([[5], [6], [7]]))[:, 0]
        assert torch.equal(decoder.stepper(3, 100)(torch.tensor([5, 6, 7]), None, cache), expected)
    assert cache.length == 1
