"""A checkpoint that cannot be written or is not what was written: the one before counts, and the bytes are the same in the end."""

import json
import signal
from pathlib import Path

import pytest

from glassworks.training.checkpoint import damage

from ..training.engine import train as train_here
from ..training.engine import train_until
from ..training.objectives import Regression
from .commands import checkpoints, newest_step, train
from .conftest import MODEL


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_during_a_checkpoint_is_one_clear_line(training, workers):
    """The limit on the size of a file stands in for the disk; logs are smaller than it, tensors are not."""
    manifest = training.root / MODEL / "manifest.json"
    wanted = manifest.read_bytes()
    command = train(training, workers, rig={"slow": {"step": 0.05}})
    command.wait_for_phase("step", 8)
    command.send(signal.SIGUSR2)
    assert command.end() == 75
    before = checkpoints(training)
    limit = min(file.stat().st_size for file in before[-1].glob("*.safetensors")) // 2

    command = train(training, workers, file_limit=limit)
    assert command.end() == 6
    last = newest_step(training)
    due = before[-1].with_name(f"step-{last // 3 * 3 + 3:08d}")  # the configuration asks for one every 3 steps
    remark = "file too large; free some space and run the same command again"
    assert command.output.splitlines() == [f"train-tiny: continuing after step {last}", f"error: {due}: {remark}"]
    assert sorted(before[-1].parent.iterdir()) == before

    command = train(training, workers)
    assert command.end() == 0
    assert command.output.startswith(f"train-tiny: continuing after step {last}\n"), (
        "progress follows on a slow machine"
    )
    assert manifest.read_bytes() == wanted


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"])
@pytest.mark.parametrize("newest", [4, 5])
def test_a_flipped_bit_sends_the_run_back_to_the_checkpoint_before(tmp_path, capfd, file, newest):
    settings = {"ema_decay": 0.9, "precision": "fp16", "checkpoint_every": 1, "keep_checkpoints": 3}
    straight = train_here(tmp_path / "straight", Regression(), **settings)
    train_until(tmp_path / "killed", 5, Regression(), **settings)
    for step in range(newest, 6):
        flip_a_bit(tmp_path / f"killed/checkpoints/step-{step:08d}" / file)
    resumed = train_here(tmp_path / "killed", Regression(), **settings)
    assert resumed == {**straight, "resumed": newest - 1}
    shown = [line for line in capfd.readouterr().err.splitlines() if "damaged; falling back to the checkpoint" in line]
    assert len(shown) == 6 - newest and all(file in line for line in shown)
    for log in ("metrics.jsonl", "digests.jsonl"):
        assert (tmp_path / "killed" / log).read_bytes() == (tmp_path / "straight" / log).read_bytes()


def flip_a_bit(path: Path) -> None:
    """In the scale of fp16 losses, which is a number as good as the right one, or in the last tensor of a file."""
    content = bytearray(path.read_bytes())
    content[content.index(b'"scale": ') + len('"scale": ') if path.suffix == ".json" else -1] ^= 1
    path.write_bytes(content)


def test_no_bit_of_the_state_may_flip_unnoticed(tmp_path):
    """But for a blank that becomes another one."""
    settings = {"precision": "fp16", "optimizer": "NAdam"}
    train_until(tmp_path, 3, Regression(), **settings)
    directory = max((tmp_path / "checkpoints").iterdir())
    state = directory / "state.json"
    content, said = state.read_bytes(), json.loads(state.read_text())
    assert damage(directory) is None
    for place in range(len(content)):
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        state.write_bytes(flipped)
        assert damage(directory) is not None or json.loads(flipped) == said
