"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from glassworks.runtime.signals import StopRequest
from glassworks.training.average import WeightAverage
from glassworks.training.loop import fit
from glassworks.training.workers import Workers

from .objectives import Refinement, a_run


def test_it_is_the_weighted_mean_of_all_weights_so_far():
    model = nn.Linear(1, 1, bias=False)
    values, wanted = [3.0, -1.0, 4.0, 1.0, 5.0], model.weight.item()
    average = WeightAverage(dict(model.named_parameters()), decay=0.3)
    for step, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * value
        assert average.tensors["weight"].item() == pytest.approx(wanted, rel=1e-6)


def test_swapping_twice_is_as_before():
    model = nn.Linear(3, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average = WeightAverage(dict(model.named_parameters()), 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    average.swap()
    assert torch.equal(model.weight, before["weight"])
    average.swap()
    assert torch.equal(model.weight, before["weight"] + 1)
    assert torch.equal(average.tensors["weight"], before["weight"])


def test_every_pass_of_deep_supervision_is_an_update(tmp_path, monkeypatch):
    """Else the decay would stay far below the configured one: 16 passes of 200 steps are 3,200 updates."""
    numbers: list[int] = []
    monkeypatch.setattr(WeightAverage, "update", lambda average, number: numbers.append(number))
    fit(a_run(tmp_path, Refinement(), steps=2, ema_decay=0.9), Workers(), StopRequest())
    assert numbers == list(range(2 * Refinement.passes))
