"""A checkpoint is whole or does not count; it holds all that a run is."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from glassworks.config.optimization import Optimization
from glassworks.config.training import Training
from glassworks.errors import ArtifactError
from glassworks.training import checkpoint
from glassworks.training.checkpoint import Checkpoints, damage, load, snapshot
from glassworks.training.step import Trainer, seed_generators
from glassworks.training.workers import Workers

from .objectives import Regression, pairs


def trainer(**training: Any) -> Trainer:
    seed_generators(0, "initial weights")
    task = Regression()
    config = Training.model_validate({"steps": 10, "batch_size": 8, "micro_batches": 2, **training})
    return Trainer(task.build(), task, Optimization(warmup_steps=2), config, 7, Workers())


def steps(one: Trainer, first: int, last: int) -> None:
    for step in range(first, last):
        one.step([pairs(0, step * 8, 4), pairs(0, step * 8 + 4, 4)], step)


def everything(one: Trainer) -> dict[str, Any]:
    state = snapshot(one, 0)
    tensors = {
        f"{file}/{name}": tensor.numpy().tobytes()
        for file, named in state.files.items()
        for name, tensor in named.items()
    }
    return {**tensors, **state.scalars}


FROZEN = {"still": {"parameters": ["inner.*", "block.*"], "frozen": True}}


@pytest.mark.parametrize("by", ["group", "model"])
def test_a_checkpoint_holds_what_is_trained_and_the_digest_of_the_rest(tmp_path, by):
    """The answer's layer only, whether a group is frozen or the model freezes its own parts."""

    def make(seed: int) -> Trainer:
        seed_generators(seed, "initial weights")
        task = Regression()
        model = task.build()
        if by == "model":
            for part in (model.inner, model.block):
                part.requires_grad_(False)
        groups = FROZEN if by == "group" else {}
        optimization = Optimization.model_validate({"warmup_steps": 2, "groups": groups})
        config = Training(steps=10, batch_size=8, micro_batches=2, ema_decay=0.9)
        return Trainer(model, task, optimization, config, 7, Workers())

    straight, before = make(0), make(0)
    start = {name: tensor.clone() for name, tensor in straight.model.state_dict().items()}
    steps(straight, 0, 6)
    steps(before, 0, 3)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(snapshot(before, 3))
    checkpoints.wait()
    saved = checkpoints.newest().directory
    assert load_file(saved / "model.safetensors").keys() == {"out.weight", "out.bias"}
    assert load_file(saved / "average.safetensors").keys() == {"out.weight", "out.bias"}
    assert {name.rpartition("/")[0] for name in load_file(saved / "optimizer.safetensors")} == {
        "out.weight",
        "out.bias",
    }
    after = make(0)
    load(checkpoints.newest(), after)
    steps(after, 3, 6)
    for name, tensor in after.model.state_dict().items():
        assert torch.equal(tensor, straight.model.state_dict()[name])
        assert torch.equal(tensor, start[name]) != name.startswith("out.")
    with pytest.raises(ArtifactError, match="step-00000003: trained over other frozen weights; remove"):
        load(checkpoints.newest(), make(1))


SETTINGS = [{}, {"precision": "bf16"}, {"precision": "fp16"}, {"ema_decay": 0.9}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_resumed_run_has_the_same_state_dropout_moments_scale_and_average_included(tmp_path, settings):
    straight = trainer(**settings)
    steps(straight, 0, 6)
    before = trainer(**settings)
    steps(before, 0, 3)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(snapshot(before, 3))
    checkpoints.wait()
    torch.randn(17)  # somebody else draws from the global generator
    after = trainer(**settings)
    load(checkpoints.newest(), after)
    steps(after, 3, 6)
    assert everything(after) == everything(straight)


def test_the_scale_of_fp16_losses_is_saved(tmp_path):
    one = trainer(precision="fp16")
    one.precision.scaler._init_scale = 2.0**40  # overflows at once: the first steps only halve it
    steps(one, 0, 2)
    assert one.precision.scaler.get_scale() == 2.0**38
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(snapshot(one, 2))
    checkpoints.wait()
    other = trainer(precision="fp16")
    load(checkpoints.newest(), other)
    assert other.precision.state() == one.precision.state()


def test_a_snapshot_does_not_change_while_training_goes_on(tmp_path, monkeypatch):
    one, hold = trainer(), threading.Event()
    steps(one, 0, 1)
    wanted = {name: tensor.detach().clone() for name, tensor in one.model.state_dict().items()}
    write = Checkpoints._write
    monkeypatch.setattr(Checkpoints, "_write", lambda *arguments: (hold.wait(10), write(*arguments)))
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(snapshot(one, 1))
    steps(one, 1, 3)
    hold.set()
    checkpoints.wait()
    saved = load_file(tmp_path / "step-00000001/model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in wanted.items())


def test_the_newest_and_the_best_are_kept(tmp_path):
    one = trainer()
    steps(one, 0, 1)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        checkpoints.save(snapshot(one, step), best_step=2 if step >= 2 else None)
    checkpoints.wait()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000002", "step-00000004", "step-00000005"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys, file):
    one = trainer()
    steps(one, 0, 1)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(snapshot(one, step))
    checkpoints.wait()
    path = tmp_path / "step-00000002" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert checkpoints.newest().step == 1
    assert "damaged; falling back to the checkpoint before" in capsys.readouterr().err


def test_a_directory_that_is_not_whole_is_never_read(tmp_path):
    (tmp_path / "step-00000009").mkdir()
    (tmp_path / ".step-00000010.tmp").mkdir()
    assert Checkpoints(tmp_path, 1).newest() is None
    assert Checkpoints(tmp_path / "nothing", 1).newest() is None


def test_what_goes_wrong_while_writing_reaches_the_training_and_leaves_the_one_before(tmp_path, monkeypatch):
    one = trainer()
    steps(one, 0, 1)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(snapshot(one, 1))
    checkpoints.wait()

    def fail(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    checkpoints.save(snapshot(one, 2))
    with pytest.raises(OSError, match="Input/output"):
        checkpoints.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert damage(tmp_path / "step-00000001") is None
