"""The controller goes away while a Snakemake on the login node waits for a job. The last file, as it waits for the tests of the others to end."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ..small_pipeline import REPOSITORY
from .conftest import CLUSTER, Run, ask, use_cluster, wait_for

pytestmark = pytest.mark.cluster


def test_a_controller_that_is_away(training, alone):
    """The limit of `make cluster-all` holds all the same, and the next run continues when the lost job is gone."""
    shutil.copy(REPOSITORY / "Makefile", training.root)
    wanted = (training.root / "models/tiny/manifest.json").read_bytes()
    shutil.rmtree(training.root / "models/tiny")
    use_cluster(training)
    run = Run(training, "make", "-o", "setup", "cluster-all", "LIMIT=1m", "KILL_AFTER=5s", seconds=3)
    run.wait_for_steps(1)
    with controller_away():
        assert run.command.process.wait(120) != 0
    assert "error: not done within 1m; `make cluster-all` continues\n" in run.command.output
    refused = training.command("snakemake", "all", succeeds=False).stdout
    assert f"error: jobs of an earlier run are still at work here; wait for them, or `scancel {run.job}`\n" in refused
    ask("scancel", run.job)

    wait_for(lambda: run.fact("JobState") == "CANCELLED")
    run = Run(training, seconds=0.1)
    assert run.end() == 0, run.command.output
    assert "continuing after step" in run.job_log()
    assert run.manifest.read_bytes() == wanted


@contextmanager
def controller_away() -> Iterator[None]:
    subprocess.run([CLUSTER, "stop-controller"], check=True)
    try:
        yield
    finally:
        subprocess.run([CLUSTER, "start-controller"], check=True)
