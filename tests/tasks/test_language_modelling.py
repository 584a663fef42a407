"""The language modelling objective: shifted labels, packed texts that do not see each other, losses weighted by token."""

import numpy as np
import pytest
import torch

from glassworks.config.data import LossOptions
from glassworks.data.reading.packing import Row
from glassworks.models.losses import IGNORED
from glassworks.models.settings.recursive import Recursion
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.tasks.language_modelling.task import LanguageModellingTask

MODELS = {
    "GPT-2": TextDecoder(width=24, depth=2, heads=2, max_tokens=12),
    "Llama": TextDecoder(
        width=24,
        depth=2,
        heads=4,
        kv_heads=2,
        max_tokens=12,
        position="rotary",
        norm="rms",
        feed_forward="swiglu",
        biases="none",
    ),
    "recursive": TextDecoder(
        width=24,
        depth=2,
        heads=2,
        max_tokens=12,
        position="rotary",
        recursion=Recursion(inner_recursions=1, outer_recursions=2, supervision_steps=2),
    ),
}


class Letters:
    pad, bos, eos, size = 0, 0, 2, 40  # padding has the id of a token that matters


def row(*texts: list[int]) -> Row:
    inputs = [np.array(text[:-1]) for text in texts]
    targets = [np.array(text[1:]) for text in texts]
    numbers = [np.full(len(text) - 1, number) for number, text in enumerate(texts)]
    return Row("k", *(np.concatenate(parts).astype(np.int64) for parts in (inputs, targets, numbers)))


@pytest.fixture(params=MODELS)
def task(request) -> LanguageModellingTask:
    return LanguageModellingTask(MODELS[request.param], Letters())


ONE, OTHER = [0, 7, 8, 9, 2], [0, 5, 4, 2]


def test_packed_logits_equal_unpacked_ones(task):
    torch.manual_seed(0)
    model = task.build().eval()
    packed = task.collate([row(ONE, OTHER)])
    together = model(packed.inputs, packed.documents)[0]
    apart = [model(torch.tensor([text[:-1]]))[0] for text in (ONE, OTHER)]
    torch.testing.assert_close(together[:7], torch.cat(apart), rtol=1e-5, atol=1e-5)


def test_defect_003_5_1_labels_are_shifted_and_padding_is_masked_by_place_not_by_id(task):
    """The handbook compares unshifted logits with labels and ignores the padding id, which may be a token that matters."""
    batch = task.collate([row(ONE), row(OTHER)])
    assert batch.targets.tolist()[1] == [5, 4, 2] + [IGNORED] * 9
    assert batch.inputs.tolist()[1][:3] == [0, 5, 4]
    torch.manual_seed(0)
    model = task.build().eval()
    loss = task.loss(model, batch)
    assert loss.weight == 7
    expected = sum(
        -model(torch.tensor([text[:-1]]))[0].log_softmax(-1)[range(len(text) - 1), text[1:]].sum()
        for text in (ONE, OTHER)
    )
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-5)


def test_a_loss_weight_scales_the_loss_of_its_row_and_not_its_weight(task):
    torch.manual_seed(0)
    model = task.build().eval()
    rows = [task.example(row(ONE), LossOptions(loss_weight=3.0), 0), task.example(row(OTHER), LossOptions(), 0)]
    whole = task.loss(model, task.collate(rows))
    first, second = (task.loss(model, task.collate([row(text)])) for text in (ONE, OTHER))
    assert whole.weight == 7
    torch.testing.assert_close(whole.total, 3 * first.total + second.total)


def test_defect_003_5_1_perplexity_weighs_tokens_not_batches(task):
    """The exponential of the mean of batch means is not the perplexity when batches have different numbers of tokens."""
    torch.manual_seed(0)
    model = task.build().eval()
    parts = [task.validate(model, task.collate([row(text)]))["loss"] for text in (ONE, OTHER)]
    whole = task.validate(model, task.collate([row(ONE), row(OTHER)]))["loss"]
    assert whole[0] == pytest.approx(sum(total for total, _ in parts), rel=1e-5) and whole[1] == 7
    assert whole[0] / whole[1] != pytest.approx(sum(total / count for total, count in parts) / 2, rel=1e-4)


def test_defect_003_9_2_no_token_sees_a_later_one_and_order_matters(task):
    """The handbook's language model has no causal mask, and a positional encoder that knows no positions."""
    torch.manual_seed(0)
    model = task.build().eval()
    ids = torch.tensor([[0, 7, 8, 9, 10]])
    changed = torch.tensor([[0, 7, 8, 9, 11]])
    torch.testing.assert_close(model(ids)[:, :4], model(changed)[:, :4])
    swapped = model(torch.tensor([[0, 8, 7, 9, 10]]))
    assert not torch.allclose(model(ids)[:, 4], swapped[:, 4], atol=1e-4)


def test_the_z_loss_is_a_named_part_of_the_loss_and_a_metric(task):
    torch.manual_seed(0)
    model = task.build().eval()
    batch = task.collate([row(ONE), row(OTHER)])
    plain = task.loss(model, batch)
    logits = model(batch.inputs, batch.documents)[batch.targets != IGNORED]
    expected = 0.01 * logits.logsumexp(-1).square().sum()
    with_z = LanguageModellingTask(task.model, task.tokenizer, z_loss=0.01)
    found = with_z.loss(model, batch)
    torch.testing.assert_close(found.total, plain.total + expected)
    assert found.parts["z_loss"] == (pytest.approx(expected.item(), rel=1e-5), 7)
    assert found.parts["cross_entropy"] == (pytest.approx(plain.total.item(), rel=1e-5), 7)
    assert plain.parts == {}
    metrics = with_z.validate(model, batch)
    assert list(metrics) == list(with_z.metrics) and metrics["z_loss"] == (pytest.approx(expected.item(), rel=1e-5), 7)
    assert metrics["loss"] == (pytest.approx(task.validate(model, batch)["loss"][0], rel=1e-5), 7)


def test_the_noise_of_a_row_follows_from_its_seed_and_the_length_of_the_document_of_each_token(task):
    """NEFTune: uniform in +-alpha / sqrt(T C), in training only, the same in any micro-batch."""
    noisy = LanguageModellingTask(task.model, Letters(), neftune=5.0)
    rows = [noisy.example(one, LossOptions(), seed) for seed, one in enumerate([row(ONE, OTHER), row(OTHER), row(ONE)])]
    batch = noisy.collate(rows)
    lengths = torch.tensor([4.0] * 4 + [3.0] * 3)
    torch.testing.assert_close(batch.noise[0, :7], 5 / (lengths * task.model.width).sqrt())
    assert (batch.noise[0, 7:] == 0).all() and (batch.noise[1, 3:] == 0).all()
    model, seen = task.build(), []
    hidden = model.decoder.hidden
    model.decoder.hidden = lambda *given, noise=None, **more: seen.append(noise) or hidden(*given, noise=noise, **more)

    whole = noisy.loss(model.train(), batch).total
    parts = sum(noisy.loss(model, noisy.collate([one])).total for one in rows)
    torch.testing.assert_close(whole, parts)
    assert torch.equal(seen[0], torch.cat(seen[1:4]))
    share = seen[0] / batch.noise[..., None].clamp(min=1e-9)
    assert 0.95 < share.abs().max() <= 1 and abs(share[0, :7].mean()) < 0.15
    assert not torch.equal(share[0, :3], share[1, :3])

    assert (whole - task.loss(model, task.collate(rows)).total).abs() > 1e-3
    noisy.loss(model.eval(), batch)
    noisy.validate(model, batch)
    assert seen[5] is None and seen[6] is None and task.collate(rows).noise is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", ["Llama", "recursive"])
def test_a_compiled_model_has_the_same_loss_and_gradients(name):
    torch.compiler.reset()
    task = LanguageModellingTask(MODELS[name].model_copy(update={"depth": 1}), Letters())
    torch.manual_seed(0)
    model, batch = task.build(), task.collate([row(ONE, OTHER)])
    plain = task.loss(model, batch)
    validated = task.validate(model.eval(), batch)["loss"][0]
    model.train()
    expected = torch.autograd.grad(plain.total, list(model.parameters()))
    model.compile(dynamic=False)
    compiled = task.loss(model, batch)
    torch.testing.assert_close(compiled.total, plain.total)
    for one, other in zip(torch.autograd.grad(compiled.total, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert task.validate(model.eval(), batch)["loss"][0] == pytest.approx(validated, rel=1e-5)
