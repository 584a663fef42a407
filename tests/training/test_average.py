"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from glassworks.training.average import WeightAverage


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
