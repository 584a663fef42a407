"""Training that is killed at any instant, with any number of workers, goes on with another number and ends with the same bytes."""

import random
import shutil
import signal
import time

import pytest

from glassworks.artifacts.manifest import faults

from ..small_pipeline import Repository
from .commands import checkpoints, newest_step, train
from .conftest import MODEL

# One after the other in the life of a run: what is going on, and the longest delay in seconds between its beginning and the kill.
INSTANTS = {"start-up": 2.0, "step": 0.05, "validation": 0.03, "checkpoint": 0.08, "launch": 0.5, "publication": 0.15}
SLOW = {"validation": 0.02, "flush": 0.01}
WORKERS = (1, 2, 4, 8)

LIVES = [
    {"without": "start-up", "training": {"precision": "bf16", "ema_decay": 0.9, "selection": {"publish": "best"}}},
    {"without": "launch"},
    {"without": "launch", "training": {"precision": "fp16"}},
    {"without": "start-up", "execution": {"loader_workers": 1, "checkpoint_every": 1}},
    {"without": "launch", "training": {"selection": {"publish": "best", "patience": 2}}},
]
"""Five runs, each killed at five instants; the first is part of every test run."""


@pytest.mark.parametrize("life", [pytest.param(n, marks=pytest.mark.slow if n else ()) for n in range(5)])
def test_training_killed_at_any_instant_ends_with_the_same_bytes(training, life, record_property):
    settings, draw = LIVES[life], random.Random(life)
    manifest = training.root / MODEL / "manifest.json"
    if "training" in settings:
        training.edit("experiments/tiny.yaml", lambda e: e["training"].update(settings["training"]))
        training.command("glassworks", "train", "tiny")
    training.edit("experiments/tiny.yaml", lambda e: e["execution"].update(settings.get("execution", {})))
    wanted = manifest.read_bytes()
    if life % 2:
        shutil.rmtree(training.root / MODEL)

    workers, hit = 1, []
    instants = [instant for instant in INSTANTS if instant != settings["without"]]
    for instant in instants:
        for _ in range(4):  # a phase is short, and may be over when the kill comes
            workers = draw.choice([number for number in WORKERS if number != workers])
            hit.append(kill(training, workers, instant, draw))
            if instant in hit[-1]:
                break
    record_property("killed in", [sorted(phases) for phases in hit])
    assert set(instants) <= set().union(*hit)

    last, command = newest_step(training), train(training, draw.choice(WORKERS))
    assert command.end() == 0, command.output
    assert f"continuing after step {last}" in command.output or not last
    assert manifest.read_bytes() == wanted
    assert not list((training.root / ".work").glob("train-tiny-*"))


def kill(repository: Repository, workers: int, instant: str, draw: random.Random) -> set[str]:
    """Kill a run and all its workers in the phase `instant`, or soon after; what was going on then. What is left must be whole."""
    last = newest_step(repository)
    command = train(repository, workers, rig={"slow": SLOW})
    command.wait_for_phase(instant, draw.randint(1, 3) if instant in ("step", "validation", "checkpoint") else 1)
    time.sleep(draw.uniform(0, INSTANTS[instant]))
    command.send_to_all(signal.SIGKILL)
    if command.end() == 0:
        return set()
    checkpoints(repository)
    model = repository.root / MODEL
    assert not model.exists() or list(faults(model)) == []
    assert "Traceback" not in command.output
    phases = command.phases()
    assert f"continuing after step {last}" in command.output or phases & {"start-up", "launch"} or not last
    return phases
