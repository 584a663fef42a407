"""DDP and FSDP2: other sums of the same gradients, and checkpoints that any reduction can go on from."""

import pytest
import torch
from safetensors.torch import load_file

from glassworks.errors import ConfigError
from glassworks.training.checkpoint import damage

from .engine import train
from .objectives import Contrastive, Regression


def weights(folder, step=6):
    return load_file(folder / f"checkpoints/step-{step:08d}/model.safetensors")


def assert_close(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("task", "reduction"),
    [(Regression(), "ddp"), pytest.param(Contrastive(), "ddp", marks=pytest.mark.slow), (Regression(), "fsdp2")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_fast_reduction_trains_to_nearly_the_same_weights(tmp_path, task, reduction):
    train(tmp_path / "exact", task)
    one = train(tmp_path / "fast", task, workers=2, reduction=reduction)
    assert_close(weights(tmp_path / "exact"), weights(tmp_path / "fast"))
    again = train(tmp_path / "again", task, workers=2, reduction=reduction)
    assert again["sha256"] == one["sha256"], "the same number of workers gives the same bytes"


@pytest.mark.parametrize(
    "settings", [{"ema_decay": 0.9}, {"groups": {"a": {"parameters": ["inner.*"], "frozen": True}}}], ids=str
)
@pytest.mark.parametrize("reduction", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_averages_and_frozen_groups_work_as_with_exact_reduction(tmp_path, reduction, settings):
    train(tmp_path / "exact", Regression(), **settings)
    train(tmp_path / "fast", Regression(), workers=2, reduction=reduction, **settings)
    assert_close(weights(tmp_path / "exact"), weights(tmp_path / "fast"))


def test_a_run_may_change_its_reduction_and_workers_at_every_checkpoint(tmp_path):
    """Whatever wrote a checkpoint, it holds whole tensors by the same names."""
    train(tmp_path / "exact", Regression(), steps=8, schedule="constant")
    folder = tmp_path / "changing"
    for steps, workers, reduction in ((2, 2, "fsdp2"), (4, 1, "exact"), (6, 4, "ddp"), (8, 2, "fsdp2")):
        found = train(folder, Regression(), workers=workers, reduction=reduction, steps=steps, schedule="constant")
        assert found["resumed"] == steps - 2
        assert damage(folder / f"checkpoints/step-{steps:08d}") is None
    assert_close(weights(tmp_path / "exact", 8), weights(folder, 8))
    moments = [
        load_file(path / "checkpoints/step-00000008/optimizer.safetensors") for path in (folder, tmp_path / "exact")
    ]
    assert_close(*moments)


def test_a_loss_that_couples_the_batch_is_refused_with_sharded_weights(tmp_path):
    with pytest.raises(ConfigError, match="fsdp2 does not go with a loss that couples the batch; use exact or ddp"):
        train(tmp_path, Contrastive(), workers=2, reduction="fsdp2")
