"""The Perceiver resampler against its published formula, written out by hand, and heads that read tokens."""

import math

import pytest
import torch
from torch.nn import functional as F

from glassworks.errors import ArtifactError
from glassworks.models.alignment import Alignment
from glassworks.models.begin_alignment import begin_alignment
from glassworks.models.perceiver import Perceiver
from glassworks.models.settings.alignment import Alignment as Heads
from glassworks.models.settings.perceiver import Perceiver as Config

SMALL = Config(latents=3, depth=2, heads=2, head_width=5, positions=True)
TOWERS = {"image": {"width": 6, "tokens": 4, "head": "perceiver"}, "text": {"width": 5}}


def moved(module):
    """The module with every parameter away from its initial value: norms begin at 1 and 0, positions at 0."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data += torch.randn_like(parameter) / 3
    return module


def normed(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def by_hand(resample, tokens):
    """OpenFlamingo's `PerceiverResampler` on the tokens [T, C] of one sample, head by head."""
    latents = resample.latents
    tokens = tokens + resample.positions[: len(tokens)]
    for layer in resample.layers:
        own, attention = normed(latents, layer.attention.latent_norm), layer.attention
        read = torch.cat([normed(tokens, attention.token_norm), own])
        query = own @ attention.query.weight.T
        key, value = (read @ weight.T for weight in attention.key_value.weight.split(10))
        heads = []
        for head in (slice(0, 5), slice(5, 10)):
            weights = (query[:, head] @ key[:, head].T / math.sqrt(5)).softmax(-1)
            heads.append(weights @ value[:, head])
        latents = latents + torch.cat(heads, dim=-1) @ attention.out.weight.T
        inner = normed(latents, layer.norm) @ layer.feed_forward.inner.weight.T
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        latents = latents + inner @ layer.feed_forward.out.weight.T
    return normed(latents, resample.norm)


def test_a_resampler_is_its_formula_and_reads_only_tokens_of_the_mask():
    resample = moved(Perceiver(6, 4, SMALL)).double()
    tokens = torch.randn(3, 4, 6, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    found = resample(tokens, mask)
    for row, count in enumerate([4, 2, 0]):
        torch.testing.assert_close(found[row], by_hand(resample, tokens[row, :count]), rtol=1e-12, atol=1e-13)
    assert found.shape == (3, 3, 6)
    assert not [name for name, _ in resample.named_parameters() if name.endswith("bias") and "norm" not in name]


def test_tokens_beyond_the_mask_and_other_samples_change_no_bit():
    resample = moved(Perceiver(6, 4, SMALL))
    tokens, mask = torch.randn(2, 4, 6), torch.tensor([[True, True, True, False], [True] * 4])
    other = torch.stack([torch.cat([tokens[0, :3], torch.full((1, 6), 1e6)]), torch.randn(4, 6)])
    assert torch.equal(resample(tokens, mask)[0], resample(other, mask)[0])


def test_without_positions_the_order_of_the_tokens_does_not_count_and_with_them_it_does():
    tokens, mask = torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool)
    plain = moved(Perceiver(6, 4, SMALL.model_copy(update={"positions": False})))
    torch.testing.assert_close(plain(tokens, mask), plain(tokens.flip(1), mask))
    placed = moved(Perceiver(6, 4, SMALL))
    assert not torch.allclose(placed(tokens, mask), placed(tokens.flip(1), mask), atol=1e-3)


def heads(**settings):
    torch.manual_seed(0)
    return Alignment(Heads(width=8, perceiver=SMALL, **settings), TOWERS)


def test_towers_have_heads_of_their_own_and_a_sample_without_tokens_has_no_vector_and_a_finite_gradient():
    model = heads()
    mask = torch.tensor([[True] * 4, [False] * 4])
    features = {"image": torch.randn(2, 4, 6) * mask[..., None], "text": torch.randn(2, 5)}
    found = model(features, {"image": mask.any(1)}, {"image": mask})
    latents = model.heads["image"].resample(features["image"], mask).mean(1)
    torch.testing.assert_close(found["image"][0], F.normalize(model.heads["image"].project(latents[0]), dim=0))
    assert torch.equal(found["image"][1], torch.zeros(8)) and found["text"].any(1).all()
    (found["image"] @ found["text"].T).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.heads.parameters())
    assert model.heads["image"].resample.latents.grad.any()


def test_heads_that_read_tokens_are_saved_with_their_shape(tmp_path):
    model = moved(Alignment(Heads(width=8, head="perceiver"), {name: {"width": 4, "tokens": 2} for name in TOWERS}))
    model.save(tmp_path)
    again = Alignment.load(tmp_path)
    assert again.config.perceiver == Config() == Config(latents=64, depth=6, heads=8, head_width=64)
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in model.state_dict().items())


def test_heads_without_a_perceiver_are_saved_as_before(tmp_path):
    Alignment(Heads(width=8), {"image": {"width": 4}, "text": {"width": 5}}).save(tmp_path)
    assert "perceiver" not in (tmp_path / "config.json").read_text()
    assert Alignment.load(tmp_path).config == Heads(width=8)


def test_another_kind_of_head_is_not_continued(tmp_path):
    heads().save(tmp_path)
    pooled = Alignment(Heads(width=8), {"image": {"width": 6}, "text": {"width": 5}})
    with pytest.raises(
        ArtifactError, match=r"its head 'image' is a perceiver head, but that of model\.towers\.image is a mlp head"
    ):
        begin_alignment(pooled, tmp_path)
