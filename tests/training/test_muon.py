"""Muon: nearly orthogonal updates for matrices, AdamW for the rest, and the parameters that each of them gets."""

import pytest
import torch
from torch import nn

from glassworks.config.optimization import Optimization
from glassworks.errors import ConfigError
from glassworks.training.muon import Muon, orthogonalise
from glassworks.training.parameters import ParameterGroups

from .engine import train
from .objectives import Regression


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (9, 9)])
def test_an_update_keeps_the_singular_vectors_and_brings_the_values_near_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) * 7
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ orthogonalise(matrix) @ vt.T
    assert (core - core.diag().diag()).abs().max() < 1e-4
    assert core.diag().min() > 0.5 and core.diag().max() < 1.3


def trained(make, steps=5):
    torch.manual_seed(1)
    parameter = nn.Parameter(torch.randn(6, 10))
    optimizer = make(parameter)
    for _ in range(steps):
        parameter.grad = torch.randn(6, 10)
        optimizer.step()
    return parameter.detach()


def test_what_is_no_matrix_takes_the_steps_of_adamw():
    ours = trained(lambda p: Muon([p], lr=0.02, betas=(0.8, 0.9), weight_decay=0.1, vector_rate=0.5))
    theirs = trained(lambda p: torch.optim.AdamW([p], lr=0.01, betas=(0.8, 0.9), weight_decay=0.1))
    torch.testing.assert_close(ours, theirs)


def test_matrices_take_the_steps_of_torch_which_computes_them_in_bfloat16():
    start = trained(lambda p: Muon([p]), steps=0)
    group = {"lr": 0.02, "weight_decay": 0.1, "orthogonal": True}
    ours = trained(lambda p: Muon([{"params": [p], **group}])) - start
    theirs = trained(lambda p: torch.optim.Muon([p], lr=0.02, weight_decay=0.1)) - start
    assert (ours - theirs).norm() < 0.03 * theirs.norm()


def test_ranks_that_share_the_matrices_get_the_bytes_of_one_rank(tmp_path):
    """Three matrices on four ranks: one has none."""
    one, four = (train(tmp_path / str(count), Regression(), count, optimizer="Muon") for count in (1, 4))
    assert one["sha256"] == four["sha256"]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.inner, self.norm = nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.positions, self.head = nn.Parameter(torch.zeros(3, 4)), nn.Linear(4, 5)
        self.kernel = nn.Parameter(torch.zeros(2, 3, 3))


def test_only_matrices_of_linear_maps_are_orthogonalised():
    model = Network()
    groups = {"inside": {"parameters": ["inner.*", "norm.*"], "learning_rate": 0.5}}
    settings = Optimization.model_validate({"optimizer": "Muon", "weight_decay": 0.1, "groups": groups})
    optimizer = ParameterGroups(model, settings, 10).make_optimizer()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["group"], group["orthogonal"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found.pop("inner.weight") == ("inside", True, 0.1)
    assert {name for name, (_, orthogonal, _) in found.items() if orthogonal} == set()
    assert found["tokens.weight"] == found["head.weight"] == ("default", False, 0.1)
    assert found["positions"] == ("default", False, 0.0) and len(found) == 8


def test_an_option_of_another_optimizer_is_one_line():
    settings = Optimization.model_validate({"optimizer": "Muon", "options": {"momentun": 0.9}})
    with pytest.raises(
        ConfigError, match=r"^optimization\.options\.momentun: Muon has no such argument; did you mean 'momentum'\?$"
    ):
        ParameterGroups(Network(), settings, 10).make_optimizer()
