"""Layers in 4 and 8 bit restore the weights that bitsandbytes restores, and an adapter of them computes what its tensors say."""

import json

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import Qwen2ForCausalLM

from glassworks.generation.cpu_step import supports
from glassworks.models import saving
from glassworks.models.adapters import LoraLinear, adapter_tensors, attach, load_adapter, merge
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.begin_language_model import begin_language_model
from glassworks.models.pretrained.language_models import export_language_model, load_language_model
from glassworks.models.pretrained.published_adapters import publish_adapter
from glassworks.models.quantisation import QuantisedLinear, count_parameters, quantise, restore
from glassworks.models.settings.adapter import Adapter

from .test_adapters import DECODER, EVERY_KIND, output, trained

QUANTISED = ["nf4", "int8"]
SHAPES = [(96, 192), (24, 10), (7, 9), (3, 5504), (1, 1)]
"""Whole blocks, blocks cut by the end of the weight, an odd number of weights, several blocks of scales, one weight."""


def weight(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of different sizes, the first of several zero."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * torch.linspace(0, 0.3, shape[0])[:, None]
    return drawn.to(dtype) + (shape[0] == 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_restored_weights_are_those_of_bitsandbytes(shape, dtype):
    theirs = pytest.importorskip("bitsandbytes.functional")
    full = weight(shape, dtype)
    codes, state = theirs.quantize_4bit(full, blocksize=64, compress_statistics=True, quant_type="nf4")
    ours = quantise(full, "nf4")
    assert torch.equal(ours.codes, codes.flatten()) and torch.equal(ours.offset, state.offset)
    assert torch.equal(restore(ours, shape, dtype), theirs.dequantize_4bit(codes, state))
    codes, scales, _ = theirs.int8_vectorwise_quant(full.clone())
    ours = quantise(full, "int8")
    assert torch.equal(ours.codes, codes) and torch.equal(ours.scales, scales)
    assert torch.equal(restore(ours, shape), theirs.int8_vectorwise_dequant(codes, scales))


def test_a_large_weight_is_restored_in_parts_and_no_thread_changes_a_bit():
    shape = 96, 6144  # more than two parts
    full, found = weight(shape), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append({kind: quantise(full, kind) for kind in QUANTISED})
    torch.set_num_threads(1)
    for kind in QUANTISED:
        assert all(torch.equal(*pair) for pair in zip(found[0][kind], found[1][kind], strict=True))
        whole = restore(found[0][kind], shape)
        assert torch.equal(restore(found[0][kind], shape, torch.bfloat16), whole.bfloat16())
        error = (whole - full).norm() / full.norm()
        assert 0.05 < error < 0.1 if kind == "nf4" else 0.002 < error < 0.01
        bits = 8 * sum(tensor.nbytes for tensor in found[0][kind]) / full.numel()
        assert bits == pytest.approx({"nf4": 4.127, "int8": 8.005}[kind], abs=1e-3)
        layer = nn.Linear(*reversed(shape), bias=False)
        layer.weight.data = full
        held = QuantisedLinear(layer, kind)
        assert sum(one.nbytes for one in held.state_dict().values()) * 8 / full.numel() == bits
        assert not list(held.parameters()) and count_parameters(held) == full.numel()


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("bf16", [False, True])
def test_a_quantised_layer_is_a_linear_layer_with_the_restored_weight(kind, bf16):
    full = nn.Linear(192, 96).requires_grad_(False)
    layer, same = QuantisedLinear(full, kind), nn.Linear(192, 96).requires_grad_(False)
    same.load_state_dict({"weight": layer.weight, "bias": full.bias})
    assert not torch.equal(same.weight, full.weight)
    found = []
    kept = []
    for one in (layer, same):
        x = torch.randn(2, 5, 192, generator=torch.Generator().manual_seed(3)).requires_grad_()
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            torch.autograd.graph.saved_tensors_hooks(
                lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
            ),
        ):
            y = one(x)
        y.float().square().sum().backward()
        found.append((y.detach(), x.grad))
        if one is layer:
            assert max(tensor.nbytes for tensor in kept) <= 192 * 96 and len(kept) >= 2
    assert found[0][0].dtype == (torch.bfloat16 if bf16 else torch.float32)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.fixture
def base(tmp_path):
    """A trained model in transformers' layout, as published weights."""
    torch.manual_seed(0)
    model = LanguageModel(DECODER, 50)
    folder = tmp_path / "base"
    export_language_model(model, folder)
    (folder / "manifest.json").write_text("{}")
    return folder


def begun(folder, adapter=None, dtype=torch.float32, quantisation=None, saved=None) -> LanguageModel:
    with saving.without_weights():
        model = LanguageModel(DECODER, 50)
    begin_language_model(model, folder, 1, adapter, saved, dtype, quantisation)
    return model.eval()


@pytest.mark.parametrize("adapter", EVERY_KIND)
@pytest.mark.parametrize("quantisation", [None, *QUANTISED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_leaves_every_base_as_it_is_until_it_is_trained(base, adapter, quantisation, dtype):
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        before = output(begun(base, None, dtype, quantisation))
        model = begun(base, Adapter(kind=adapter, rank=4, dropout=0.5), dtype, quantisation)
        assert torch.equal(output(model), before)
    layers = [one for one in model.modules() if isinstance(one, LoraLinear)]
    assert {type(one.base_layer) for one in layers} == {QuantisedLinear if quantisation else nn.Linear}
    assert {one.dtype for one in model.parameters() if not one.requires_grad} == {dtype}
    assert all(one.is_floating_point() for one in adapter_tensors(model).values())
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("quantisation", QUANTISED)
@pytest.mark.parametrize("adapter", EVERY_KIND)
def test_a_quantised_base_learns_as_the_model_of_its_restored_weights(base, quantisation, adapter):
    settings = Adapter(kind=adapter, rank=4, alpha=8)
    held, plain = begun(base, settings, quantisation=quantisation), begun(base)
    saving.round_weights(plain, "fp32", quantisation)
    attach(plain, settings, seed=1)
    found = []
    for model in (held, plain):
        trained(model).train()
        output(model).square().mean().backward()
        found.append({name: one.grad for name, one in model.named_parameters() if one.requires_grad})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("quantisation", QUANTISED)
@pytest.mark.parametrize("adapter", EVERY_KIND)
def test_a_saved_adapter_is_merged_onto_the_base_that_it_was_trained_on(base, tmp_path, capsys, quantisation, adapter):
    model = trained(begun(base, Adapter(kind=adapter, rank=4, alpha=8), torch.bfloat16, quantisation))
    folder = tmp_path / "tuned"
    model.save_adapter(folder, base, "bf16", quantisation)
    record = json.loads((folder / "adapter_base.json").read_text())
    assert (record["dtype"], record["quantisation"]) == ("bf16", quantisation)

    again = begun(base, None, torch.bfloat16, quantisation, folder)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    expected = output(model.float())
    merged = load_language_model(folder, base).eval()
    assert supports(merged.decoder) and not supports(model.decoder)
    torch.testing.assert_close(output(merged), expected, rtol=1e-4, atol=1e-4)
    said = capsys.readouterr().err
    assert f"{folder}: merged onto base in {quantisation}, as in training; merged onto the original weights, a" in said
    difference = float(said.rpartition(" ")[2])

    onto_original = load_language_model(base)
    load_adapter(onto_original, folder)
    assert merge(onto_original) == 0
    pairs = zip(merged.decoder.blocks.parameters(), onto_original.decoder.blocks.parameters(), strict=True)
    found = max((one - other).abs().max().item() for one, other in pairs if one.ndim == 2)
    assert difference == pytest.approx(found, rel=0.01) and found > 1e-3

    unmerged = load_language_model(folder, base, merged=False).eval()
    torch.testing.assert_close(output(unmerged), expected, rtol=1e-4, atol=1e-4)
    merge(model)
    torch.testing.assert_close(output(model), expected, rtol=1e-4, atol=1e-4)


def test_a_quantised_layer_without_an_adapter_is_not_decoded_by_the_cpu_step(base):
    assert supports(begun(base).decoder)
    assert not supports(begun(base, quantisation="nf4").decoder)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft calls it
def test_peft_computes_an_adapter_on_the_restored_weights_as_we_do(base, tmp_path):
    model = trained(begun(base, Adapter(kind="pissa", rank=4), quantisation="nf4"))
    model.save_adapter(tmp_path / "tuned", base)
    publish_adapter(tmp_path / "tuned", tmp_path / "peft", "base")
    plain = begun(base)
    saving.round_weights(plain, "fp32", "nf4")
    export_language_model(plain, tmp_path / "plain")
    theirs = PeftModel.from_pretrained(Qwen2ForCausalLM.from_pretrained(tmp_path / "plain"), tmp_path / "peft").eval()
    torch.testing.assert_close(output(theirs), output(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quantisation", [None, "nf4"])
def test_a_merged_model_chooses_the_same_tokens(base, quantisation):
    """2,048 tokens, in float32."""
    model = trained(begun(base, Adapter(rank=4, alpha=8), quantisation=quantisation))
    ids = torch.randint(0, 50, (128, 16), generator=torch.Generator().manual_seed(4))
    unmerged = model(ids)
    merge(model)
    merged = model(ids)
    assert torch.equal(unmerged.argmax(-1), merged.argmax(-1)) and merged.argmax(-1).unique().numel() > 20
    assert not any(isinstance(one, QuantisedLinear | LoraLinear) for one in model.modules())
    assert {type(model.get_submodule(f"decoder.blocks.0.attention.{name}")) for name in ("qkv", "out")} == {nn.Linear}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's compiler does so
@pytest.mark.parametrize("quantisation", QUANTISED)
def test_a_quantised_layer_compiles_to_one_graph(quantisation):
    model = nn.Sequential(nn.Linear(8, 24), nn.Linear(24, 8))
    for index in range(2):
        model[index] = QuantisedLinear(model[index], quantisation)
    attach(model, Adapter(rank=4), seed=1)
    trained(model).train()
    x, found = torch.randn(4, 8), []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        run(x).square().mean().backward()
        found.append([one.grad.clone() for one in model.parameters() if one.requires_grad])
    torch._dynamo.reset()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
