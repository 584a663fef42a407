"""A step is a pure function of weights, moments, step number and data; the cut into micro-batches does not change what is computed."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from glassworks.config.training import Optimization
from glassworks.errors import DataError
from glassworks.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from glassworks.training.step import make_optimizer, seed_generators, train_step

CONFIG = Optimization(warmup_steps=2)


@dataclass
class Tokens:
    keys: list[str]
    x: torch.Tensor
    y: torch.Tensor


class Regression:
    """Rows of different lengths: targets that are NaN are padding."""

    def loss(self, model, batch):
        real = ~batch.y.isnan()
        return F.mse_loss(model(batch.x)[real], batch.y[real], reduction="sum"), int(real.sum())


def make_model(dropout: float = 0.0) -> nn.Module:
    seed_generators(0, "initial weights")
    return nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3))


def batches(step: int, parts: int) -> list[Tokens]:
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(16, 5, generator=generator), torch.randn(16, 3, generator=generator)
    y[torch.rand(16, 3, generator=generator) < 0.4] = float("nan")
    return [Tokens([f"{i}"], a, b) for i, (a, b) in enumerate(zip(x.chunk(parts), y.chunk(parts), strict=True))]


def run(model, optimizer, first: int, last: int, parts: int = 4) -> None:
    for step in range(first, last):
        train_step(model, optimizer, Regression(), batches(step, parts), CONFIG, seed=7, step=step, steps=10)


def weights(model: nn.Module) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


def test_accumulation_is_weighted_by_target_not_by_micro_batch():
    one, four = make_model(), make_model()
    run(one, make_optimizer(one, CONFIG), 0, 5, parts=1)
    run(four, make_optimizer(four, CONFIG), 0, 5, parts=4)
    for a, b in zip(one.parameters(), four.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_has_the_same_bytes_dropout_included(tmp_path):
    straight = make_model(dropout=0.3)
    run(straight, make_optimizer(straight, CONFIG), 0, 6)
    model = make_model(dropout=0.3)
    optimizer = make_optimizer(model, CONFIG)
    run(model, optimizer, 0, 3)
    save_checkpoint(tmp_path, model, optimizer, 3, keep=2)
    torch.randn(17)  # somebody else draws from the global generator
    model = make_model(dropout=0.3)
    optimizer = make_optimizer(model, CONFIG)
    load_checkpoint(newest_checkpoint(tmp_path), model, optimizer)
    run(model, optimizer, 3, 6)
    assert weights(model) == weights(straight)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    model = make_model()
    optimizer = make_optimizer(model, CONFIG)
    run(model, optimizer, 0, 1)
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, model, optimizer, step, keep=2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000002", "step-00000003"]
    file = tmp_path / "step-00000003/optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert newest_checkpoint(tmp_path).step == 2
    assert "optimizer.safetensors is damaged" in capsys.readouterr().err


def test_a_directory_that_is_not_whole_is_never_read(tmp_path):
    (tmp_path / "step-00000009").mkdir()
    (tmp_path / ".step-00000010.1.tmp").mkdir()
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "nothing") is None


def test_a_loss_that_is_not_finite_names_the_step_and_the_samples():
    model = make_model()
    parts = batches(0, 4)
    parts[2].x[:] = float("inf")
    with pytest.raises(DataError, match=r"step 0, micro-batch 2: the loss is nan; samples: 2"):
        train_step(model, make_optimizer(model, CONFIG), Regression(), parts, CONFIG, seed=7, step=0, steps=10)


def test_weight_decay_spares_biases():
    decayed, plain = make_optimizer(make_model(), CONFIG).param_groups
    assert decayed["weight_decay"] > 0 and all(p.ndim == 2 for p in decayed["params"])
    assert plain["weight_decay"] == 0 and all(p.ndim == 1 for p in plain["params"])
