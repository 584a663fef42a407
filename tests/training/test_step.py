"""A step is a pure function of weights, moments, step number and data; the cut into micro-batches does not change what is computed."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from glassworks.config.optimization import Optimization
from glassworks.config.training import Training
from glassworks.errors import DataError
from glassworks.training.objective import couple
from glassworks.training.step import Trainer, seed_generators
from glassworks.training.workers import Workers

from .objectives import Contrastive, Pairs, Regression, pairs

TASKS = [Regression(dropout=0.0), Contrastive(dropout=0.0)]


def trainer(task: Any, micro_batches: int = 4, **optimization: Any) -> Trainer:
    seed_generators(0, "initial weights")
    training = Training(steps=10, batch_size=16, micro_batches=micro_batches)
    config = Optimization.model_validate({"warmup_steps": 2, **optimization})
    return Trainer(task.build(), task, config, training, seed=7, workers=Workers())


def batches(step: int, parts: int) -> list[Pairs]:
    size = 16 // parts
    return [pairs(0, step * 16 + part * size, size) for part in range(parts)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_the_cut_into_micro_batches_does_not_change_what_is_computed(task):
    one, four = trainer(task, 1), trainer(task, 4)
    for step in range(5):
        first, second = one.step(batches(step, 1), step), four.step(batches(step, 4), step)
        assert first.loss == pytest.approx(second.loss, rel=1e-4)
        assert first.weight == second.weight
    for a, b in zip(one.model.parameters(), four.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_defect_003_5_3_a_target_counts_the_same_in_whichever_micro_batch_it_is():
    """The handbook divides by the number of micro-batches: a mean of means weighs targets of a padded micro-batch more."""
    task = Regression(dropout=0.0)
    engine = trainer(task, 4, clip_norm=None, optimizer="SGD", learning_rate=1.0, warmup_steps=0, weight_decay=0.0)
    before = {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}
    parts, parameters = batches(0, 4), list(engine.model.parameters())
    whole = Pairs([], torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
    loss = task.loss(engine.model, whole)
    wanted = torch.autograd.grad(loss.total / loss.weight, parameters)
    means = [task.loss(engine.model, part) for part in parts]
    assert len({part.weight for part in means}) > 1, "the micro-batches must differ in weight"
    of_means = torch.autograd.grad(sum(part.total / part.weight for part in means) / 4, parameters)
    engine.step(parts, 0)
    for (name, parameter), gradient, other in zip(engine.model.named_parameters(), wanted, of_means, strict=True):
        torch.testing.assert_close(before[name] - parameter, gradient, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(other, gradient, rtol=1e-3)


def test_defect_003_5_2_gradients_are_clipped_without_the_loss_scale():
    """The handbook clips gradients that are still multiplied by the scale of fp16 losses, so that the limit means nothing."""
    engines = [trainer(Regression(dropout=0.0), clip_norm=0.01) for _ in range(2)]
    scaled = Training(steps=10, batch_size=16, micro_batches=4, precision="fp16")
    engines[1] = Trainer(engines[1].model, Regression(dropout=0.0), engines[1].config, scaled, 7, Workers())
    plain = engines[0].step(batches(0, 4), 0)
    for _ in range(20):  # the scale begins too high, and falls at steps that are left out
        half = engines[1].step(batches(0, 4), 0)
        if math.isfinite(half.gradient_norm):
            break
    assert half.loss_scale is not None and half.loss_scale > 100
    assert plain.gradient_norm > 0.01, "something must be clipped"
    assert half.gradient_norm == pytest.approx(plain.gradient_norm, rel=0.02)
    for a, b in zip(engines[0].model.parameters(), engines[1].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=1e-4)


def test_two_passes_give_the_gradient_of_one_pass():
    """Gradient caching against the plain gradient of the whole batch, in fp64."""
    task = Contrastive(dropout=0.0)
    model = task.build().double()
    parts = [Pairs(part.keys, part.x.double(), part.y.double()) for part in batches(0, 8)]
    parameters = list(model.parameters())

    whole = Pairs([], torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
    loss = task.coupled_loss(model, task.embed(model, whole))
    wanted = torch.autograd.grad(loss.total, parameters)

    with torch.no_grad():
        embeddings = [task.embed(model, part) for part in parts]
    coupling = couple(model, task, embeddings, parameters, Workers())
    found = [
        torch.zeros_like(parameter) if more is None else more
        for parameter, more in zip(parameters, coupling.direct, strict=True)
    ]
    for part, gradients in zip(parts, coupling.embedding_gradients, strict=True):
        again = task.embed(model, part)
        more = torch.autograd.grad(list(again.values()), parameters, list(gradients.values()), allow_unused=True)
        found = [a if b is None else a + b for a, b in zip(found, more, strict=True)]

    assert coupling.loss.weight == loss.weight == 16
    assert coupling.loss.total.item() == pytest.approx(loss.total.item(), rel=1e-12)
    assert coupling.direct[0] is not None, "the scale has a gradient of its own"
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_coupled_step_moves_every_parameter_as_the_plain_gradient_would():
    task = Contrastive(dropout=0.0)
    engine = trainer(task, 8, clip_norm=None, optimizer="SGD", learning_rate=1.0, warmup_steps=0, weight_decay=0.0)
    before = [parameter.detach().clone() for parameter in engine.model.parameters()]
    parts = batches(0, 8)
    whole = Pairs([], torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
    loss = task.coupled_loss(engine.model, task.embed(engine.model, whole))
    wanted = torch.autograd.grad(loss.total / loss.weight, list(engine.model.parameters()))
    engine.step(parts, 0)
    for old, parameter, gradient in zip(before, engine.model.parameters(), wanted, strict=True):
        torch.testing.assert_close(old - parameter, gradient, rtol=1e-4, atol=1e-6)


def test_dropout_is_the_same_in_both_passes_of_a_coupled_step():
    """The second pass must differentiate what the first has computed."""
    task, seen = Contrastive(dropout=0.5), []
    plain = task.embed

    def embed(model: Any, batch: Pairs) -> Any:
        seen.append(plain(model, batch))
        return seen[-1]

    task.embed = embed  # type: ignore[method-assign]
    trainer(task, 4).step(batches(0, 4), 0)
    for first, second in zip(seen[:4], seen[4:], strict=True):
        assert torch.equal(first["left"], second["left"])
    assert len(seen) == 8


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_a_loss_that_is_not_finite_names_the_step_and_the_samples(task):
    parts = batches(3, 4)
    parts[2].x[1] = float("inf")
    with pytest.raises(DataError, match=r"step 3, micro-batch \d: the loss is (nan|inf); samples: .*57"):
        trainer(task).step(parts, 3)


def test_the_norm_of_the_log_is_that_before_clipping():
    task = Regression(dropout=0.0)
    free, clipped = (trainer(task, clip_norm=limit).step(batches(0, 4), 0) for limit in (None, 1e-3))
    assert free.gradient_norm == clipped.gradient_norm > 1e-3


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_parameter_that_no_sample_reaches_has_gradient_zero(micro_batches):
    """Zero is not None: the optimizer would skip a parameter without a gradient, weight decay included."""
    task = Regression(dropout=0.0)
    options = {"optimizer": "SGD", "learning_rate": 1.0, "warmup_steps": 0, "schedule": "constant"}
    plain = trainer(task, micro_batches, clip_norm=None, weight_decay=0.5, **options)
    plain.model.register_parameter("unused", nn.Parameter(torch.ones(3, 3)))
    engine = Trainer(plain.model, task, plain.config, plain.training, 7, Workers())
    for step, expected in enumerate((0.5, 0.25)):
        engine.step(batches(step, micro_batches), step)
        assert torch.equal(engine.model.unused, torch.full((3, 3), expected))


def test_the_generator_of_mps_has_the_seed_of_the_cpu(monkeypatch):
    seeds = []
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.mps.manual_seed", seeds.append)
    seed_generators(7, 3, 0)
    assert seeds == [torch.default_generator.initial_seed()]
