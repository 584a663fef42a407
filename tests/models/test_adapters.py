"""Adapters compute what peft computes, start from the seed and their names alone, and are saved in peft's layout."""

import json
import re
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config, Qwen2ForCausalLM

from glassworks.errors import ArtifactError, ConfigError
from glassworks.models.adapters import (
    CONFIG,
    WEIGHTS,
    LoraLinear,
    adapter_tensors,
    attach,
    load_adapter,
    merge,
    principal_factors,
    read_base,
    save_adapter,
)
from glassworks.models.captioner import Captioner
from glassworks.models.feed_forward import FeedForward
from glassworks.models.language_model import LanguageModel
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.captioner import Captioner as CaptionerConfig
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.settings.vision_transformer import VisionTransformer

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
"""peft calls what transformers deprecates."""

KINDS = ["lora", "rslora", "dora"]
EVERY_KIND = [*KINDS, "pissa"]
DECODER = TextDecoder(
    width=32, depth=2, heads=4, kv_heads=2, max_tokens=16, position="rotary", norm="rms", feed_forward="swiglu",
    biases="qkv", tied=False,
)  # fmt: skip
VISION = VisionTransformer(image_size=16, patch_size=4, width=32, depth=2, heads=2)
IDS = torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(3))
BASE = {"name": "models/base", "manifest": "0" * 64}


def language_model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(DECODER, 50)


def captioner() -> Captioner:
    torch.manual_seed(0)
    return Captioner(
        CaptionerConfig(encoder=VISION, decoder=TextDecoder(width=32, depth=2, heads=2, max_tokens=12)), 50
    )


def qwen() -> nn.Module:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16, tie_word_embeddings=True, attn_implementation="sdpa",
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8, bias=False))


def output(model: nn.Module) -> torch.Tensor:
    inner = model.base_model.model if isinstance(model, PeftModel) else model
    if isinstance(inner, Captioner):
        return model(torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16), IDS)
    if isinstance(inner, nn.Sequential):
        return model(torch.linspace(-1, 1, 32).view(4, 8))
    found = model(IDS)
    return getattr(found, "logits", found)


def trained(model: nn.Module) -> nn.Module:
    """The model with adapters of random B and other magnitudes, as after training."""
    generator = torch.Generator().manual_seed(9)
    for name, tensor in adapter_tensors(model).items():
        if "lora_B" in name:
            tensor.normal_(0, 0.1, generator=generator)
        if "magnitude" in name:
            tensor.mul_(1 + 0.2 * torch.randn(tensor.shape, generator=generator))
    return model


MODELS = {"language model": language_model, "captioner": captioner, "transformers": qwen, "plain": plain}
UNFUSED = {name: MODELS[name] for name in ("transformers", "plain")}
"""Models whose layers peft adapts as we do; `test_exported_adapters` compares our fused layers with those of the published model."""
QV = ["q_proj", "v_proj"]


def projections(model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of every adapted projection."""
    return {
        f"{name}.{part}" if part else name: own
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
        for part, own in module.tensors().items()
    }


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("bf16", [False, True])
def test_attaching_changes_no_bit_of_the_output(kind, build, bf16):
    model = build()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        before = output(model)
        names = attach(model, Adapter(kind=kind, rank=4, dropout=0.5), seed=1)
        assert torch.equal(output(model.eval()), before)
    assert {name for name, one in model.named_modules() if isinstance(one, LoraLinear)} == set(names)


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_only_the_adapter_is_trained(kind, build):
    model = build()
    attach(model, Adapter(kind=kind, rank=4), seed=1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW((one for one in model.parameters() if one.requires_grad), lr=0.1, weight_decay=0.1)
    for _ in range(2):  # the gradient of A is 0 at the first step, because B is 0
        optimizer.zero_grad()
        output(model).square().mean().backward()
        optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert (
        changed == set(adapter_tensors(model)) == {name for name, one in model.named_parameters() if one.requires_grad}
    )
    assert len(changed) % (3 if kind == "dora" else 2) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", UNFUSED.values(), ids=UNFUSED)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("alpha", [8, 6])
def test_output_and_gradients_are_those_of_peft(kind, build, dropout, bf16, alpha):
    """Bit for bit for LoRA and rsLoRA with a scale that is a power of two. peft multiplies another tensor by the scale, and norms of DoRA by bf16."""
    ours, base = build(), build()
    names = attach(ours, Adapter(kind=kind, rank=4, alpha=alpha, dropout=dropout), seed=1)
    trained(ours).train()
    forms = {"use_rslora": kind == "rslora", "use_dora": kind == "dora"}
    config = LoraConfig(r=4, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, **forms)
    theirs = get_peft_model(base, config).train()
    twins = {
        name.removeprefix("base_model.model.").replace(".default", "").replace("vector.weight", "vector"): parameter
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    tensors = adapter_tensors(ours)
    assert twins.keys() == tensors.keys()
    with torch.no_grad():
        for name, twin in twins.items():
            twin.copy_(tensors[name])

    found = []
    for model in (ours, theirs):
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = output(model)
        F.cross_entropy(logits.float().flatten(0, -2), torch.arange(logits[..., 0].numel()) % 5).backward()
        found.append(logits.detach().float())
    gradients = {name: one.grad for name, one in ours.named_parameters() if one.grad is not None}
    assert gradients.keys() == twins.keys()
    if kind != "dora" and alpha == 8:
        assert torch.equal(*found)
        assert all(torch.equal(gradients[name], twins[name].grad) for name in twins)
        return
    relative = 0.03 if bf16 else 1e-6
    assert (found[0] - found[1]).norm() <= relative * found[1].norm()
    whole = torch.cat([twin.grad.flatten() for twin in twins.values()]).norm()
    for name, twin in twins.items():
        error = (gradients[name] - twin.grad).norm()
        assert error <= relative * whole, name
        assert bf16 or error <= 1e-4 * twin.grad.norm(), name


def test_initial_matrices_depend_on_seed_and_name_alone():
    def matrices(targets, seed=1, rank=4, draws=0):
        model = language_model()
        torch.rand(draws)
        before = torch.get_rng_state()
        attach(model, Adapter(rank=rank, targets=targets), seed)
        assert torch.equal(torch.get_rng_state(), before)
        return {name: own["lora_A.weight"] for name, own in projections(model).items()}

    whole = matrices(["*.qkv", "*.out", "*.inner"])
    for other in (matrices(None), matrices(["*.inner", "*.qkv", "*.out"], draws=5)):
        assert whole.keys() == other.keys() and all(torch.equal(whole[name], other[name]) for name in whole)
    for target in ("decoder.blocks.1.attention.out", "decoder.blocks.1.attention.qkv.v_proj"):
        part = matrices([target])
        assert list(part) == [target] and torch.equal(part[target], whole[target])

    flat = {
        name: tuple(one.flatten()[:4].tolist())
        for name, one in (whole | {f"{n} 2": t for n, t in matrices(None, seed=2).items()}).items()
    }
    assert len(set(flat.values())) == 2 * len(whole)
    many = matrices(["*.qkv"], rank=500)["decoder.blocks.0.attention.qkv.k_proj"] * 32**0.5
    assert many.abs().max() <= 1 and abs(many.mean()) < 0.02 and abs(many.std() - 3**-0.5) < 0.01


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_merged_model_is_plain_and_computes_the_same(kind, build):
    model = build().eval()
    base, names = output(model), list(model.state_dict())
    attach(model, Adapter(kind=kind, rank=4, alpha=8), seed=1)
    expected = output(trained(model))
    merge(model)
    assert [type(one) for one in model.modules()] == [type(one) for one in build().modules()]
    assert list(model.state_dict()) == names
    torch.testing.assert_close(output(model), expected, rtol=1e-5, atol=1e-5)
    assert (base - expected).abs().max() > 0.01


def test_a_merge_into_half_precision_rounds_once():
    model = plain().bfloat16()
    attach(model, Adapter(kind="dora", rank=4), seed=1)
    adapter = trained(model).get_submodule("0")
    assert adapter.lora_A.weight.dtype == torch.float32
    expected = adapter.merged_weight().bfloat16()
    merge(model)
    assert torch.equal(model[0].weight, expected)


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize(
    ("name", "targets"), [*((name, None) for name in MODELS), ("language model", QV), ("language model", ["up_proj"])]
)
def test_a_saved_adapter_loads_with_the_same_bits(kind, name, targets, tmp_path):
    build = MODELS[name]
    model = build().eval()
    base = output(model)
    names = attach(model, Adapter(kind=kind, rank=4, alpha=7.5, dropout=0.1, targets=targets), seed=1)
    expected = output(trained(model))
    save_adapter(model, tmp_path, BASE)
    assert read_base(tmp_path) == BASE | ({"kind": "pissa"} if kind == "pissa" else {})
    assert (base - expected).abs().max() > 0.01
    if name in UNFUSED:
        theirs = PeftModel.from_pretrained(build(), tmp_path).eval()
        torch.testing.assert_close(output(theirs), expected, rtol=1e-5, atol=1e-5)

    ours = build().eval()
    assert load_adapter(ours, tmp_path, BASE["manifest"]) == names
    assert torch.equal(output(ours), expected)
    assert {name for name, one in ours.named_parameters() if one.requires_grad} == set(adapter_tensors(ours))

    again = tmp_path / "again"
    save_adapter(ours, again, BASE)
    for file in tmp_path.glob("adapter_*"):
        assert (again / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_saved_by_peft_loads(kind, tmp_path):
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False,
        use_rslora=kind == "rslora", use_dora=kind == "dora",
    )  # fmt: skip
    theirs = get_peft_model(qwen(), config).eval()
    theirs.save_pretrained(tmp_path)
    ours = qwen().eval()
    assert len(load_adapter(ours, tmp_path)) == 14
    torch.testing.assert_close(output(ours), output(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "saved"),
    [
        (None, ["gate_proj", "k_proj", "out", "q_proj", "up_proj", "v_proj"]),
        (QV, QV),
        (["*.1.attention.qkv"], [f"decoder.blocks.1.attention.qkv.{name}_proj" for name in "qkv"]),
        (["*.feed_forward.out"], ["decoder.blocks.0.feed_forward.out", "decoder.blocks.1.feed_forward.out"]),
    ],
)
def test_target_modules_select_exactly_the_adapted_projections(targets, saved, tmp_path):
    model = language_model()
    names = attach(model, Adapter(rank=2, targets=targets), seed=1)
    save_adapter(model, tmp_path, BASE)
    assert json.loads((tmp_path / CONFIG).read_text())["target_modules"] == saved
    again = language_model()
    assert load_adapter(again, tmp_path) == names
    assert projections(again).keys() == projections(model).keys()


def test_a_name_that_ends_like_another_is_saved_exactly(tmp_path):
    def build():
        torch.manual_seed(0)
        return nn.ModuleDict({"proj": nn.Linear(4, 4), "inside": nn.ModuleDict({"proj": nn.Linear(4, 4)})})

    model = build()
    assert attach(model, Adapter(rank=2, targets=["proj"]), seed=1) == ["proj"]
    save_adapter(model, tmp_path, BASE)
    assert load_adapter(build(), tmp_path) == ["proj"]
    PeftModel.from_pretrained(build(), tmp_path)  # peft warns, an error in tests, if a tensor is missing


@pytest.fixture
def saved(tmp_path):
    model = language_model()
    attach(model, Adapter(rank=4), seed=1)
    save_adapter(model, tmp_path, BASE)
    return tmp_path


def refused(folder, error=ArtifactError, **options) -> str:
    model = language_model()
    with pytest.raises(error) as raised:
        load_adapter(model, folder, **options)
    assert not adapter_tensors(model) and all(one.requires_grad for one in model.parameters())
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_tensors_that_do_not_match_are_listed(saved):
    tensors = load_file(saved / WEIGHTS)
    prefix = "base_model.model.decoder.blocks.0.attention"
    del tensors[f"{prefix}.qkv.k_proj.lora_B.weight"]
    tensors[f"{prefix}.out.lora_A.weight"] = torch.zeros(5, 32)
    tensors[f"{prefix}.up.lora_A.weight"] = torch.zeros(4, 32)
    save_file(tensors, saved / WEIGHTS)
    assert refused(saved) == (
        f"{saved / WEIGHTS}: missing {prefix}.qkv.k_proj.lora_B.weight; extra {prefix}.up.lora_A.weight; "
        f"{prefix}.out.lora_A.weight is [5, 32], not [4, 32]"
    )


def test_an_adapter_of_another_base_is_refused(saved):
    assert re.search(f"of the base {'0' * 64}, not of {'1' * 64};", refused(saved, manifest="1" * 64))
    (saved / "adapter_base.json").unlink()
    assert "not the configuration of an adapter's base" in refused(saved, manifest="1" * 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank_pattern": {"qkv": 8}}, "rank_pattern is {'qkv': 8}, which our adapters do not support"),
        ({"modules_to_save": ["head"]}, r"modules_to_save is \['head'\], which"),
        ({"bias": "all"}, "bias is 'all', which"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which"),
        ({"use_dora": True, "use_rslora": True}, "use_rslora is 'true with use_dora', which"),
        ({"peft_type": "LOHA"}, "not the configuration of a LoRA adapter"),
        ({"r": 0}, "invalid number among r 0, lora_alpha 16, lora_dropout 0.0"),
        (
            {"target_modules": ["c_attn"]},
            r"name no linear layer of the model; allowed: decoder.blocks.\*.attention.out, decoder.blocks.\*.attention.qkv.k_proj",
        ),
        ({"target_modules": None}, "target_modules is None, not a list of names"),
    ],
)
def test_other_configurations_are_refused(saved, change, message):
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps(config | change))
    assert re.search(message, refused(saved))


def test_pissa_trains_the_principal_components_that_peft_trains():
    """Losses, gradients and the effective weight of three steps; peft rounds the residual, ours keeps the weight."""
    ours, base = qwen(), qwen()
    names = attach(ours, Adapter(kind="pissa", rank=4, alpha=8), seed=1)
    theirs = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=names, init_lora_weights="pissa"))
    twins = {
        name.removeprefix("base_model.model.").replace(".default", ""): one
        for name, one in theirs.named_parameters()
        if one.requires_grad
    }
    for name in names:
        layer, other = ours.get_submodule(name), base.get_submodule(name)
        before, after = layer.initial_A, layer.initial_B
        left, values, right = torch.linalg.svd(layer.base_layer.weight.double())
        exact = (left[:, :4] * values[:4]) @ right[:4]
        torch.testing.assert_close(layer.scale * (after @ before).double(), exact, rtol=0, atol=1e-6)
        torch.testing.assert_close(layer.scale * after @ before, other.get_delta_weight("default"), rtol=0, atol=1e-5)
        torch.testing.assert_close(after.norm(dim=0), before.norm(dim=1), rtol=1e-5, atol=0)
        with torch.no_grad():  # singular vectors have a sign, and peft's may have the other
            twins[f"{name}.lora_A.weight"].copy_(before)
            twins[f"{name}.lora_B.weight"].copy_(after)
    tensors = {name: one for name, one in ours.named_parameters() if one.requires_grad}
    assert tensors.keys() == twins.keys()
    optimizers = [torch.optim.SGD(one.values(), lr=0.5) for one in (tensors, twins)]
    for _ in range(3):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(F.cross_entropy(output(model).flatten(0, 1), IDS.flatten()))
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    for name, one in tensors.items():
        torch.testing.assert_close(one.grad, twins[name].grad, rtol=1e-3, atol=1e-5)


def test_pissa_trains_the_principal_components_of_each_projection():
    model = language_model()
    attach(model, Adapter(kind="pissa", rank=4, alpha=8, targets=("qkv",)), seed=1)
    weight = model.decoder.blocks[1].attention.qkv.base_layer.weight.double()
    for name, rows in zip("qkv", weight.split([32, 16, 16]), strict=True):
        own = projections(model)[f"decoder.blocks.1.attention.qkv.{name}_proj"]
        left, values, right = torch.linalg.svd(rows, full_matrices=False)
        product = 2 * own["lora_B.weight"] @ own["lora_A.weight"]
        torch.testing.assert_close(product.double(), (left[:, :4] * values[:4]) @ right[:4], rtol=0, atol=1e-6)
    with pytest.raises(
        ConfigError, match=r"17 is more than the smaller side of decoder.blocks.0.attention.qkv.k_proj;"
    ):
        attach(language_model(), Adapter(kind="pissa", rank=17, targets=("k_proj",)), seed=1)


def test_principal_factors_do_not_depend_on_threads_and_a_rank_that_is_too_large_is_one_line():
    weight = torch.randn(300, 200, generator=torch.Generator().manual_seed(1))
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(principal_factors(weight, 8))
    torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    with pytest.raises(ConfigError, match=r"model\.adapter\.rank: 9 is more than the smaller side of 0; lower it"):
        attach(plain(), Adapter(kind="pissa", rank=9), seed=1)


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (
            "all-linear",
            [*(f"attention.qkv.{one}_proj" for one in "qkv"), "attention.out", *(f"feed_forward.inner.{one}_proj" for one in ("gate", "up")),
             "feed_forward.out"],
        ),
        (QV, ["attention.qkv.q_proj", "attention.qkv.v_proj"]),
        (["v_proj", "o_proj", "q_proj"], ["attention.qkv.q_proj", "attention.qkv.v_proj", "attention.out"]),
        (["up_proj", "down_proj"], ["feed_forward.inner.up_proj", "feed_forward.out"]),
        (["qkv", "*.feed_forward.out"], [*(f"attention.qkv.{one}_proj" for one in "qkv"), "feed_forward.out"]),
    ],
)  # fmt: skip
def test_targets_by_short_names(targets, names):
    model = language_model()
    attach(model, Adapter.model_validate({"rank": 2, "targets": targets}), seed=1)
    assert list(projections(model)) == [f"decoder.blocks.{i}.{name}" for i in range(2) for name in names]


def test_a_short_name_that_does_not_fit_is_one_line():
    with pytest.raises(ConfigError) as raised:
        attach(language_model(), Adapter.model_validate({"targets": "k_prj"}), seed=1)
    assert str(raised.value) == "model.adapter.targets: no linear layer is called 'k_prj'; did you mean 'k_proj'?"


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_projection_without_an_update_is_that_of_the_base(kind):
    """Its rows stay when the adapter is merged, and it gets no parameter."""
    model = language_model()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    attach(model, Adapter(kind=kind, rank=4, targets=QV), seed=1)
    assert {tuple(one.shape) for one in adapter_tensors(trained(model)).values()} == {
        *((8, 32), (48, 4)), *([(48,)] if kind == "dora" else [])
    }  # fmt: skip
    expected = output(model)
    merge(model)
    torch.testing.assert_close(output(model), expected, rtol=1e-5, atol=1e-5)
    for name, weight in model.state_dict().items():
        parts = (
            zip(weight.split([32, 16, 16]), before[name].split([32, 16, 16]), strict=True)
            if "qkv.weight" in name
            else ()
        )
        assert [torch.equal(*part) for part in parts] == ([False, True, False] if parts else [])
        assert parts or torch.equal(weight, before[name])


def test_defect_002_every_linear_layer_of_the_blocks_has_an_adapter_by_default():
    """The document adapts the four projections of attention; QLoRA (Dettmers et al., 2023) needs all layers to match full fine-tuning."""
    counts = {}
    for name, targets in {"ours": None, "the document's": ["q_proj", "k_proj", "v_proj", "o_proj"]}.items():
        model = language_model()
        attach(model, Adapter(targets=targets), seed=1)
        counts[name] = len(projections(model))
    assert counts == {"ours": 7 * DECODER.depth, "the document's": 4 * DECODER.depth}


def test_defect_002_attention_is_one_operator_of_torch_and_the_projections_around_it_are_others():
    """The document's `fused_attention(input, W_q, W_k, W_v)` exists in no library. Scores and probabilities are never stored, with an adapter too."""
    model = language_model()
    attach(model, Adapter(rank=4), seed=1)
    with Operators() as operators:
        model.eval()(IDS)
    attentions = [name for name in operators.called if "scaled_dot_product" in name]
    assert len(attentions) == DECODER.depth and not any("softmax" in name for name in operators.called)
    assert sum(name in ("aten::mm", "aten::addmm") for name in operators.called) >= 4 * DECODER.depth


class Operators(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        self.called.append(operator.name().split(".")[0])
        return operator(*arguments, **(options or {}))


def test_an_unknown_target_names_the_nearest_layers():
    model = language_model()
    with pytest.raises(ConfigError) as raised:
        attach(model, Adapter(targets=["*.out", "decoder.blocks.*.atention.qkv"]), seed=1)
    assert str(raised.value) == (
        "model.adapter.targets: no linear layer is called 'decoder.blocks.*.atention.qkv'; "
        "did you mean 'decoder.blocks.*.attention.qkv'?"
    )
    assert not adapter_tensors(model) and all(one.requires_grad for one in model.parameters())


def test_layers_that_cannot_carry_an_adapter_are_refused():
    with pytest.raises(ConfigError, match=r"lm_head shares its weight with model.embed_tokens"):
        attach(qwen(), Adapter(targets=["lm_head"]), seed=1)
    shared = plain()
    shared.append(shared[0])
    with pytest.raises(ConfigError, match="0 shares its weight with 3"):
        attach(shared, Adapter(), seed=1)
    with pytest.raises(ConfigError, match="no linear layer is called 'out_proj'"):  # its forward is never called
        attach(nn.MultiheadAttention(8, 2), Adapter(targets=["out_proj"]), seed=1)
    model = language_model()
    attach(model, Adapter(), seed=1)
    with pytest.raises(ConfigError, match="has an adapter already"):
        attach(model, Adapter(), seed=1)


def test_code_that_reads_the_weight_of_a_layer_cannot_ignore_its_adapter():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    attach(layer, Adapter(rank=2), seed=1)
    with torch.inference_mode(), pytest.raises(AttributeError, match="weight"):
        layer(torch.randn(1, 3, 8))


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_blocks_recomputed_in_the_backward_pass_give_the_same_gradients(kind):
    found = []
    for again in (False, True):
        model = language_model()
        attach(model, Adapter(kind=kind, rank=4, dropout=0.3), seed=1)
        trained(model).train()
        for block in model.blocks() if again else ():
            block.forward = lambda *given, forward=block.forward: checkpoint(forward, *given, use_reentrant=False)
        torch.manual_seed(5)
        output(model).square().mean().backward()
        found.append({name: one.grad for name, one in model.named_parameters() if one.requires_grad})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("bf16", [False, True])
def test_the_forward_pass_compiles_to_one_graph(kind, bf16):
    model = FeedForward(8, 24, "swiglu")
    attach(model, Adapter(kind=kind, rank=4, dropout=0.3, targets=("up_proj", "out")), seed=1)
    trained(model).train()
    x, found = torch.randn(4, 8), []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            run(x).float().square().mean().backward()
        found.append([one.grad.clone() for one in model.parameters() if one.requires_grad])
    torch._dynamo.reset()
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= (0.03 if bf16 else 1e-6) * one.norm()


QWEN = {
    "0.5B": (
        {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
        2_162_688,
        8_798_208,
    ),
    "1.5B": (
        {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
        4_358_144,
        18_464_768,
    ),
}
"""Shape of Qwen2.5, and trained parameters at rank 16 of attention and of all linear layers, as published."""


@pytest.mark.parametrize("size", QWEN)
def test_parameters_of_qwen(size):
    shape, attention, every = QWEN[size]
    config = Qwen2Config(vocab_size=151_936, num_key_value_heads=2, tie_word_embeddings=True, **shape)
    decoder = TextDecoder(
        width=shape["hidden_size"], depth=shape["num_hidden_layers"], heads=shape["num_attention_heads"],
        kv_heads=2, feed_forward_width=shape["intermediate_size"], max_tokens=32_768, position="rotary",
        norm="rms", feed_forward="swiglu", biases="qkv",
    )  # fmt: skip
    for targets, expected in ((["q_proj", "k_proj", "v_proj", "o_proj"], attention), (None, every)):
        with torch.device("meta"):
            models = Qwen2ForCausalLM(config), LanguageModel(decoder, 151_936)
        for model in models:
            attach(model, Adapter(rank=16, targets=targets), seed=1)
            assert sum(one.numel() for one in model.parameters() if one.requires_grad) == expected


def test_the_import_loads_neither_peft_nor_transformers():
    program = "import sys, glassworks.models.adapters; sys.exit(bool({'peft', 'transformers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True)
