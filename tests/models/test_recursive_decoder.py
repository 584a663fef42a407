"""A recursive text decoder: the recursion against equations written here, causal, with a cache, and beside plain decoders of equal size and cost."""

from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import flop_counter

from glassworks.config.project import load_project
from glassworks.errors import ArtifactError, ConfigError
from glassworks.generation.cpu_step import supports
from glassworks.generation.decoding import generate
from glassworks.generation.settings import Decoding
from glassworks.models import saving
from glassworks.models.language_model import LanguageModel
from glassworks.models.losses import IGNORED, next_token_losses
from glassworks.models.pretrained.begin_language_model import begin_language_model
from glassworks.models.pretrained.language_models import hub_config, read_plain_decoder
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.captioner import Captioner
from glassworks.models.settings.recursive import Recursion
from glassworks.models.settings.text_decoder import TextDecoder as Config
from glassworks.models.settings.vision_language import VisionLanguage

REPOSITORY = Path(__file__).resolve().parents[2]
VOCABULARY = 12
RECURSION = {"inner_recursions": 2, "outer_recursions": 2, "supervision_steps": 2}
SHAPES = {
    "GPT-2": {},
    "Llama": {"position": "rotary", "norm": "rms", "feed_forward": "swiglu", "biases": "none", "kv_heads": 1},
}
IDS = torch.tensor([[0, 7, 8, 9, 2, 3], [0, 5, 4, 2, 6, 6]])
TARGETS = torch.tensor([[7, 8, 9, 2, 3, 1], [5, 4, IGNORED, 6, 6, IGNORED]])


def shape(kind: str = "Llama", **recursion) -> Config:
    recursive = Recursion(**{**RECURSION, **recursion})
    return Config(width=8, depth=2, heads=2, max_tokens=16, recursion=recursive, **SHAPES[kind])


def a_model(kind: str = "Llama", **recursion) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(shape(kind, **recursion), VOCABULARY)
    with torch.no_grad():
        model.decoder.tokens.weight.mul_(20)
    return model


@pytest.fixture(params=SHAPES)
def model(request) -> LanguageModel:
    return a_model(request.param).eval()


def unrolled(model: LanguageModel, ids: Tensor, gradient: str) -> list[Tensor]:
    """The logits after each of two supervision steps with n = 2 and T = 2, one line for each update."""
    plain = model.config.model_copy(update={"recursion": None})
    one_pass = LanguageModel(plain, VOCABULARY)
    one_pass.decoder.blocks, one_pass.decoder.norm = model.decoder.blocks, model.decoder.norm

    def f(x: Tensor) -> Tensor:
        return one_pass.decoder.hidden(ids, inputs=x)

    x = model.decoder.tokens(ids)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    y, z = (start.expand_as(x) for start in (model.decoder.initial_answer, model.decoder.initial_latent))
    logits = []
    for _ in range(2):
        y, z = y.detach(), z.detach()
        with torch.set_grad_enabled(gradient == "all_rounds"):
            z = f(z + y + x)
            z = f(z + y + x)
            y = f(y + z)
        with torch.set_grad_enabled(gradient != "one_step"):
            z = f(z + y + x)
        z = f(z + y + x)
        y = f(y + z)
        logits.append(y @ model.decoder.tokens.weight.T)
    return logits


@pytest.mark.parametrize("gradient", ["all_rounds", "last_round", "one_step"])
def test_loss_and_gradient_are_those_of_the_equations(gradient):
    model = a_model(gradient=gradient)
    steps = unrolled(model, IDS, gradient)
    torch.testing.assert_close(model.eval()(IDS), steps[-1])
    weights = torch.rand(TARGETS.shape, generator=torch.Generator().manual_seed(1))
    for token_weights in (None, weights):
        factors = 1 if token_weights is None else token_weights
        expected = sum((factors * next_token_losses(logits, TARGETS)).sum() for logits in steps) / 2
        found = model.train()(IDS, targets=TARGETS, token_weights=token_weights).total
        torch.testing.assert_close(found, expected)
        parameters = list(model.parameters())
        own, theirs = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (found, expected))
        for one, other in zip(own, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_validation_loss_is_that_of_the_last_supervision_step(model):
    found = model(IDS, targets=TARGETS)
    torch.testing.assert_close(found.total, next_token_losses(model(IDS), TARGETS).sum())
    right = (model(IDS).argmax(-1) == TARGETS).sum()
    assert int(found.correct) == right
    assert not torch.allclose(model.train()(IDS, targets=TARGETS).total, found.total)


@pytest.mark.parametrize(
    ("gradient", "graphs"),
    [
        ("all_rounds", [True] * 6),
        ("last_round", [False] * 3 + [True] * 3),
        ("one_step", [False] * 4 + [True] * 2),
    ],
)
def test_each_setting_of_the_gradient_reaches_its_updates_and_no_earlier_step(gradient, graphs):
    model = a_model(gradient=gradient)
    found: list[bool] = []
    model.decoder.blocks[0].register_forward_hook(lambda block, inputs, output: found.append(output.requires_grad))
    model(IDS, targets=TARGETS)
    assert found == graphs * 2
    answers: list[Tensor] = []
    model.decoder.norm.register_forward_hook(lambda norm, inputs, output: answers.append(output))
    hidden = model.decoder.hidden(IDS, every_step=True)
    assert hidden.shape == (2, *IDS.shape, 8)
    first = answers[5]
    for step, reached in ((0, True), (1, False)):
        of_first = torch.autograd.grad(hidden[step].square().sum(), first, retain_graph=True)[0]
        assert of_first.any() == reached


def test_a_later_token_changes_no_earlier_logits(model):
    for place in range(1, IDS.shape[1]):
        changed = IDS.clone()
        changed[:, place] = (changed[:, place] + 1) % VOCABULARY
        before, after = model(IDS), model(changed)
        assert torch.equal(before[:, :place], after[:, :place])
        assert not torch.allclose(before[:, place], after[:, place])


def test_a_row_does_not_depend_on_its_batch(model):
    torch.testing.assert_close(model(IDS)[1:], model(IDS[1:]))


def test_packed_logits_equal_unpacked_ones(model):
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, -1, -1]])
    together = model(F.pad(IDS[:1], (0, 2)), documents)[0]
    torch.testing.assert_close(together[:4], model(IDS[:1, :4])[0])
    torch.testing.assert_close(together[4:6], model(IDS[:1, 4:])[0])


def test_the_cache_has_keys_and_values_of_every_application(model):
    whole, cache = model(IDS), model.decoder.new_cache(2)
    assert len(cache.kept) == 2 * 2 * 2 * 3
    parts = [model.decoder(IDS[:, :3], cache=cache)]
    parts += [model.decoder(IDS[:, place : place + 1], cache=cache) for place in range(3, 6)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_a_generated_text_is_that_of_full_forward_passes_alone_and_in_a_batch(model):
    assert not supports(model.decoder)
    prompts = [[0, 7, 8], [3], [0, 5, 4, 2]]
    settings = Decoding(max_new_tokens=6)
    together = generate(model, prompts, settings, None)
    for prompt, text in zip(prompts, together, strict=True):
        assert generate(model, [prompt], settings, None) == [text]
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        assert ids[len(prompt) :] == text


def test_a_saved_model_gives_the_same_logits_and_a_plain_one_names_no_recursion(model, tmp_path):
    model.save(tmp_path)
    again = LanguageModel.load(tmp_path).eval()
    assert again.config == model.config
    torch.testing.assert_close(again(IDS), model(IDS))
    plain = model.config.model_copy(update={"recursion": None})
    LanguageModel(plain, VOCABULARY).save(tmp_path / "plain")
    assert "recursion" not in (tmp_path / "plain/config.json").read_text()
    assert LanguageModel.load(tmp_path / "plain").config.recursion is None
    (tmp_path / "plain/config.json").write_bytes((tmp_path / "config.json").read_bytes())
    with pytest.raises(ArtifactError, match=r"missing decoder\.initial_answer; missing decoder\.initial_latent"):
        LanguageModel.load(tmp_path / "plain")


def test_training_begins_with_a_recursive_model_and_an_adapter_of_it(model, tmp_path):
    model.save(tmp_path)
    with saving.without_weights():
        begun = LanguageModel(model.config, VOCABULARY)
    begin_language_model(begun, tmp_path, 0, Adapter(rank=2))
    torch.testing.assert_close(begun.eval()(IDS), model(IDS))
    begun.train()(IDS, targets=TARGETS).total.backward()
    trained = {name for name, parameter in begun.named_parameters() if parameter.grad is not None}
    assert trained and all("lora" in name for name in trained)


def test_no_export_and_no_model_with_images_takes_a_recursive_decoder(model, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.recursion: transformers has no recursive language model"):
        hub_config(model.config, VOCABULARY)
    for settings in (Captioner, VisionLanguage):
        with pytest.raises(ValidationError, match=r"decoder\.recursion: only a language model has one"):
            settings(decoder=model.config)
    model.save(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.language_model: the decoder of .* is recursive"):
        read_plain_decoder(tmp_path)


def test_the_controls_of_lm_kjv_recursive_have_as_many_parameters_and_flops(tmp_path):
    """Of a training step on full rows: matrix products of the blocks, of attention and of the head, forward and backward."""
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**params, "experiments": ["lm_kjv_recursive"]}))
    project = load_project(tmp_path)
    sizes, costs = {}, {}
    for variant in ("recursive", "plain_equal_parameters", "plain_equal_flops"):
        experiment = project.experiments[f"lm_kjv_recursive--{variant}--1"]
        model = LanguageModel(experiment.model.plain(Config), experiment.data.tokenizer.vocab_size)
        sizes[variant] = sum(parameter.numel() for parameter in model.parameters())
        ids = torch.zeros(1, experiment.model.max_tokens, dtype=torch.long)
        # the gradient of the head is added in place, which torch does not count by itself
        head = {torch.ops.aten.addmm_: lambda total, left, right, out_shape: 2 * left[0] * left[1] * right[1]}
        with sdpa_kernel(SDPBackend.MATH), flop_counter.FlopCounterMode(display=False, custom_mapping=head) as counter:
            model(ids, torch.zeros_like(ids), targets=ids).total.backward()
        costs[variant] = counter.get_total_flops()
    assert sizes["recursive"] == sizes["plain_equal_parameters"] == 590_464
    assert sizes["plain_equal_flops"] == sizes["recursive"] + 10 * (4 * 128**2 + 3 * 128 * 256 + 2 * 128)
    assert costs["recursive"] == costs["plain_equal_flops"] == 4 * costs["plain_equal_parameters"]
