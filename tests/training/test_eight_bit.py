"""AdamW with moments in 8 bit: near AdamW, the same after a checkpoint, and one line without the extra."""

import sys

import pytest
import torch
from safetensors.torch import load_file

from glassworks.config.optimization import Optimization
from glassworks.config.project import parse_experiment
from glassworks.errors import ConfigError
from glassworks.training.checkpoint import MOMENTS, Checkpoints, load, snapshot
from glassworks.training.parameters import ParameterGroups
from glassworks.training.step import seed_generators

from .objectives import Regression
from .test_parameters import make, steps

EIGHT_BIT = {"optimizer": "AdamW8bit", "options": {"min_8bit_size": 16}}


def begun(**settings):
    seed_generators(0, "initial weights")
    return make(Regression(dropout=0.1), **settings)


def trained(first: int = 0, last: int = 6, **settings):
    trainer = begun(**settings)
    steps(trainer, first, last)
    return trainer


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_moments_are_in_8_bit_and_the_weights_near_those_of_adamw():
    pytest.importorskip("bitsandbytes")
    ours, theirs, start = trained(**EIGHT_BIT), trained(optimizer="AdamW"), trained(0, 0)
    large = [one for one in ours.model.parameters() if one.numel() >= 16]
    assert large and all(ours.optimizer.state[one]["state1"].dtype == torch.uint8 for one in large)
    moved = (weights(theirs) - weights(start)).norm()
    assert 0 < (weights(ours) - weights(theirs)).norm() < 0.2 * moved


def test_a_resumed_run_has_the_same_bytes(tmp_path):
    pytest.importorskip("bitsandbytes")
    straight, before = trained(**EIGHT_BIT), trained(0, 3, **EIGHT_BIT)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(snapshot(before, 3))
    checkpoints.wait()
    saved = load_file(checkpoints.newest().directory / MOMENTS)
    assert {tensor.dtype for tensor in saved.values()} == {torch.uint8, torch.float32}
    after = begun(**EIGHT_BIT)
    load(checkpoints.newest(), after)
    steps(after, 3, 6)
    assert torch.equal(weights(after), weights(straight))
    control = begun(**EIGHT_BIT)
    load(checkpoints.newest(), control)
    control.optimizer.state.clear()
    steps(control, 3, 6)
    assert not torch.equal(weights(control), weights(straight)), "the moments matter"


def test_a_step_does_not_depend_on_the_number_of_threads():
    pytest.importorskip("bitsandbytes")
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            layer = torch.nn.Linear(200, 300)
            optimizer = ParameterGroups(layer, Optimization.model_validate(EIGHT_BIT), 10).make_optimizer()
            for _ in range(5):
                for parameter in layer.parameters():
                    parameter.grad = torch.randn(parameter.shape)
                optimizer.step()
            found.append(layer.weight.detach().clone())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_without_the_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match=r"AdamW8bit needs .* pip install 'glassworks\[quantisation\]'") as error:
        make(**EIGHT_BIT)
    assert "\n" not in str(error.value)


def test_sharded_tensors_are_refused():
    settings = {"task": "language_modelling", "data": {"dataset": "texts"}, "optimization": {"optimizer": "AdamW8bit"}}
    settings |= {"training": {"steps": 1, "batch_size": 1, "micro_batches": 1, "reduction": "fsdp2"}}
    with pytest.raises(ConfigError, match="AdamW8bit needs whole tensors, which fsdp2 shards"):
        parse_experiment(settings, "tuned")
