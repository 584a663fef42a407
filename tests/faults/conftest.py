"""A run of 40 short steps in 8 micro-batches, so that up to 8 workers can share it, and what comes out when nothing disturbs it."""

import fcntl
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..small_pipeline import Repository
from .commands import Command

MODEL = Path("models/tiny")


def configure(repository: Repository) -> None:
    """Validations and checkpoints fall together at times, and at times not."""
    training = {"steps": 40, "micro_batches": 8, "validate_every": 4, "digest_every": 7}
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(training))
    repository.edit("experiments/tiny.yaml", lambda e: e["execution"].update(checkpoint_every=3))


@pytest.fixture(scope="session")
def undisturbed(built: Path) -> Path:
    """A repository after that run, shared by all processes of the session; copy it, never change it."""
    root = built.with_name("undisturbed")
    with built.with_name("undisturbed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "done").exists():
            shutil.copytree(built, root, symlinks=True)
            repository = Repository(root)
            configure(repository)
            repository.command("glassworks", "train", "tiny")
            (root / "done").touch()
    return root


@pytest.fixture
def training(undisturbed: Path, tmp_path: Path) -> Repository:
    """A copy of that repository; models/tiny is what must come out again."""
    shutil.copytree(undisturbed, tmp_path / "repository", symlinks=True)
    return Repository(tmp_path / "repository")


@pytest.fixture(autouse=True)
def no_command_outlives_its_test() -> Iterator[None]:
    """Whatever the test found out."""
    yield
    for command in Command.started:
        command.send_to_all(signal.SIGKILL)
        command.process.wait()
    Command.started.clear()
