"""Groups of parameters: their own rates and times, weight decay where it belongs, and optimizers by name."""

from typing import Any

import pytest
import torch
from torch import nn

from glassworks.config.base import parse
from glassworks.config.optimization import Optimization, Optimizer
from glassworks.config.training import Training
from glassworks.errors import ConfigError
from glassworks.models.adapters import attach
from glassworks.models.settings.adapter import Adapter
from glassworks.training.parameters import ParameterGroups
from glassworks.training.step import Trainer
from glassworks.training.workers import Workers

from .objectives import Contrastive, Regression, pairs


def config(**settings: Any) -> Optimization:
    return parse(Optimization, {"warmup_steps": 0, "schedule": "constant", **settings}, "experiment")


def make(task: Any = None, steps: int = 8, **settings: Any) -> Trainer:
    task = task or Contrastive(dropout=0.3)
    training = Training(steps=steps, batch_size=8, micro_batches=2)
    return Trainer(task.build(), task, config(**settings), training, 0, Workers())


def steps(trainer: Trainer, first: int, last: int) -> None:
    for step in range(first, last):
        trainer.step([pairs(0, step * 8, 4), pairs(0, step * 8 + 4, 4)], step)


LORA_PLUS = {"b": {"parameters": ["*.lora_B.weight"], "learning_rate": 3.2e-3}}
STAGED = {"left": {"parameters": ["left.*"], "train_from": 2, "train_until": 4, "learning_rate": 0.01}}


def test_weight_decay_spares_norms_biases_positions_gates_and_scales():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(3, 3), nn.LayerNorm(3)
            self.positions, self.position_embedding = nn.Parameter(torch.ones(4, 3)), nn.Embedding(4, 3)
            self.gate, self.logit_scale = nn.Parameter(torch.ones(1)), nn.Parameter(torch.tensor(1.0))

    model = Model()
    optimizer = ParameterGroups(model, config(weight_decay=0.1), 10).make_optimizer()
    decayed = [p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    assert [id(p) for p in decayed] == [id(model.linear.weight)]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_the_first_group_that_matches_has_the_parameter():
    groups = {"bias": {"parameters": ["*.bias"]}, "left": {"parameters": ["left.*"], "learning_rate": 0.5}}
    trainer = make(groups=groups)
    members = trainer.groups.members
    assert all(name.endswith("bias") for name in members["bias"]) and members["bias"]
    assert all(name.startswith("left.") and not name.endswith("bias") for name in members["left"])
    assert "scale" in members["default"]
    assert trainer.groups.rates(0) == {"default": 1e-3, "bias": 1e-3, "left": 0.5}


def test_lora_plus_is_a_group_with_a_higher_rate_for_b():
    """LoRA+ (Hayou et al., 2024): B learns at a multiple of the rate of A."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    attach(model, Adapter(rank=2), seed=1)
    groups = ParameterGroups(model, config(learning_rate=2e-4, groups=LORA_PLUS), 10)
    assert groups.members == {
        "default": ["0.lora_A.weight", "1.lora_A.weight"],
        "b": ["0.lora_B.weight", "1.lora_B.weight"],
    }
    assert groups.rates(3) == {"default": 2e-4, "b": 3.2e-3}


def test_defect_000_7_frozen_parts_stay_as_they_are_in_eval_mode_without_moments_or_gradients():
    trainer = make(groups=STAGED)
    left = trainer.model.left
    before = [parameter.detach().clone() for parameter in left.parameters()]
    steps(trainer, 0, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, left.parameters(), strict=True))
    assert not left.training and not left.block[3].training and trainer.model.right.training
    assert all(parameter not in trainer.optimizer.state and parameter.grad is None for parameter in left.parameters())
    assert len(trainer.reduction.parameters) == len(list(trainer.model.parameters())) - len(before)

    steps(trainer, 2, 4)
    assert not any(torch.equal(a, b) for a, b in zip(before, left.parameters(), strict=True))
    assert left.training and all(parameter in trainer.optimizer.state for parameter in left.parameters())

    kept = [parameter.detach().clone() for parameter in left.parameters()]
    steps(trainer, 4, 6)
    assert all(torch.equal(a, b) for a, b in zip(kept, left.parameters(), strict=True))
    assert not left.training and not any(parameter in trainer.optimizer.state for parameter in left.parameters())


def test_running_statistics_are_never_updated():
    """Those of a batch would depend on how it is cut into micro-batches."""

    class Normalised(Regression):
        def build(self) -> nn.Module:
            return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 6))

    trainer = make(Normalised())
    before = trainer.model[1].weight.detach().clone()
    steps(trainer, 0, 2)
    assert torch.equal(trainer.model[1].running_mean, torch.zeros(8))
    assert not torch.equal(trainer.model[1].weight, before), "its own weights are trained"


@pytest.mark.parametrize("name", Optimizer.__args__)
def test_every_optimizer_trains(name):
    if name == "AdamW8bit":
        pytest.importorskip("bitsandbytes")
    trainer = make(Regression(dropout=0.0), optimizer=name, **({"weight_decay": 0.0} if name != "Rprop" else {}))
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    steps(trainer, 0, 2)
    assert not any(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_the_list_of_optimizers_is_torchs_own():
    """LBFGS wants a closure, SparseAdam sparse gradients. torch's Muon takes matrices only; ours is older than it. AdamW8bit is that of bitsandbytes."""
    found = {name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type)}
    assert set(Optimizer.__args__) == found - {"Optimizer", "LBFGS", "SparseAdam"} | {"Muon", "AdamW8bit"}


def test_options_reach_the_optimizer():
    trainer = make(optimizer="SGD", options={"momentum": 0.9, "nesterov": True})
    assert trainer.optimizer.param_groups[0]["momentum"] == 0.9 and trainer.optimizer.param_groups[0]["nesterov"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"groups": {"text": {"parameters": ["lefft.*"]}}},
            r"groups.text: no parameter is called 'lefft.\*'; did you mean 'left.\*'\?",
        ),
        (
            {"groups": {"a": {"parameters": ["*"]}, "b": {"parameters": ["left.*"]}}},
            "groups.b: earlier groups have taken",
        ),
        ({"groups": {"default": {"parameters": ["*"]}}}, "'default' is the name of what no group matches"),
        ({"groups": {"a": {"parameters": ["*"], "train_from": 5, "train_until": 5}}}, "train_until 5 must be later"),
        ({"groups": {"a": {"parameters": ["*"], "frozen": True, "train_from": 5}}}, "frozen: true leaves no step"),
        ({"groups": {"a": {"parameters": ["*"], "train_until": 3}}}, "step 3 trains no parameter"),
        ({"groups": {"a": {"parameters": []}}}, "groups.a.parameters"),
        ({"optimizer": "AdamX"}, "unknown value 'AdamX'; did you mean 'Adam"),
        ({"optimizer": "SGD", "options": {"momentun": 0.9}}, "SGD has no such argument; did you mean 'momentum'"),
        ({"optimizer": "SGD", "betas": [0.9, 0.95]}, "optimization.betas: SGD has none"),
        ({"optimizer": "Rprop", "weight_decay": 0.1}, "optimization.weight_decay: Rprop has none"),
        ({"options": {"lr": 0.1}}, "write it as optimization.learning_rate"),
        ({"options": {"foreach": True}}, "chosen by the training engine"),
        ({"optimizer": "SGD", "options": {"nesterov": True}}, "SGD: Nesterov momentum requires"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, line):
    with pytest.raises(ConfigError, match=line) as error:
        make(**settings)
    assert "\n" not in str(error.value)
