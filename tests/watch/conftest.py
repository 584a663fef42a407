"""A project whose training is killed while it is watched."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import yaml

from glassworks.watch.observer import Observer

from ..conftest import SmallProject
from ..project.conftest import EXPERIMENT, PARAMS

TRAIN, STEPS, EVERY = "train-lm_words", 1800, 50
ENTRY = "import sys; sys.argv[0] = 'glassworks'; from glassworks.cli import main; main()"
PATIENCE = 60
"""Seconds for a change that is awaited, on a busy machine."""


def wait_for(condition):
    """The value of a condition when it holds."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


@contextmanager
def training(root):
    """The process of a training in the project."""
    command = [sys.executable, "-c", ENTRY, "train", "lm_words", "--log", f"logs/{TRAIN}.log"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def look(observer):
    """The state of the training, read now."""
    observer._looked_at = 0.0
    return observer.looks()[TRAIN]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A project in which the inputs of a training are made."""
    project = SmallProject(tmp_path_factory.mktemp("watched"))
    experiment = yaml.safe_load(EXPERIMENT)
    experiment["training"] |= {"steps": STEPS, "validate_every": 20}
    experiment["execution"] = {"checkpoint_every": EVERY}
    params = yaml.safe_load(PARAMS)
    params["datasets"]["words"]["splits"] = {"validation": 0.2}
    project.configure(params, lm_words=experiment)
    (project.root / "words").mkdir()
    for file in range(40):
        text = "\n".join(f"line {number} of the words in text {file}" for number in range(30))
        (project.root / f"words/{file}.txt").write_text(text)
    for stage in project.table:
        if stage.kind not in ("train", "evaluate", "report"):
            for job in range(stage.jobs):
                project.run_job(stage.name, job)
            project.run(stage.name)
    return project


@pytest.fixture(scope="session")
def killed(prepared):
    """The project after the kill of its training, and what was seen before it: the state and the details while it ran."""
    observer = Observer(prepared.root)
    before = look(observer).state
    with training(prepared.root) as process:
        saved = f".work/{TRAIN}-*/checkpoints/step-*"
        wait_for(lambda: observer.details(TRAIN)["validation"] and any(prepared.root.glob(saved)))
        seen = {"before": before, "look": look(observer), "details": observer.details(TRAIN), "pid": process.pid}
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return prepared, seen
