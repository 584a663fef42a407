"""Repositories whose stages run on the cluster that slurm.sh has started."""

import fcntl
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ..faults.commands import Command
from ..faults.conftest import no_command_outlives_its_test, training, undisturbed
from ..small_pipeline import Repository

__all__ = ["no_command_outlives_its_test", "training", "undisturbed"]

PROFILE = "profiles/slurm/config.yaml"
CLUSTER = Path(__file__).with_name("slurm.sh")
PATIENCE = 600
"""Seconds until a test gives up."""


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """The tests' own cluster, never another."""
    if not shutil.which("scontrol") or "ClusterName             = glassworks" not in ask("scontrol", "show", "config"):
        pytest.skip("the cluster of tests/cluster/slurm.sh is not running: make test-cluster")


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing else runs on the cluster during this test."""
    yield from _holding(tmp_path_factory, fcntl.LOCK_EX)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Others may run on the cluster, too."""
    yield from _holding(tmp_path_factory, fcntl.LOCK_SH)


def _holding(tmp_path_factory: pytest.TempPathFactory, kind: int) -> Iterator[None]:
    with (tmp_path_factory.getbasetemp().parent / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, kind)
        yield


def ask(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout


def fact(job: str, name: str) -> str:
    """What SLURM knows about a job."""
    return re.search(rf"\b{name}=(\S*)", ask("scontrol", "show", "job", job))[1]


def use_cluster(repository: Repository, **train: Any) -> Repository:
    """What a site does: other settings in the profile. This one asks for news more often, so that tests take minutes only."""

    def change(profile: dict[str, Any]) -> None:
        profile |= {"slurm-init-seconds-before-status-checks": 2}
        profile["set-resources"]["train"] |= train

    repository.edit(PROFILE, change)
    repository.environment["SNAKEMAKE_PROFILE"] = "profiles/slurm"
    return repository


class Run:
    """A Snakemake on the login node that has a model trained on the cluster, slowly."""

    def __init__(self, repository: Repository, *command: str, seconds: float = 1) -> None:
        self.repository = repository
        self.manifest = repository.root / "models/tiny/manifest.json"
        command = command or ("snakemake", "models/tiny/manifest.json")
        self.hurried = repository.root.with_name("hurry")
        self.command = Command(repository, *command, rig={"slow": {"step": seconds}, "hurry": str(self.hurried)})

    @property
    def steps(self) -> int:
        """Taken by all jobs of this run together."""
        return self.command.announcements.read_text().split().count("+step")

    @property
    def job(self) -> str:
        """The newest job of this run."""
        return re.findall(r"SLURM jobid (\d+)", self.command.output)[-1]

    def job_log(self) -> str:
        [file] = self.repository.root.glob(f".snakemake/slurm_logs/rule_train/tiny/{self.job}.log")
        return file.read_text()

    def fact(self, name: str) -> str:
        """What SLURM knows about the job."""
        return fact(self.job, name)

    def end(self) -> int:
        """Wait for the end of Snakemake; its exit code."""
        try:
            code = self.command.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"Snakemake does not end:\n{self.command.output}")
        for process in psutil.process_iter(
            ["cwd"]
        ):  # the inner Snakemake of a job that was killed: only cgroups would reach it
            if process.info["cwd"] == str(self.repository.root):
                process.kill()
        return code

    def hurry(self) -> None:
        """From here on steps take no longer than they must."""
        self.hurried.touch()

    def wait_for_steps(self, more: int = 3) -> None:
        """Return when so many further steps have been taken."""
        there = self.steps
        wait_for(lambda: self.steps >= there + more or not self.command.running)
        assert self.command.running, self.command.output


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
