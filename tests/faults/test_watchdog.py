"""What hangs is ended, with one line, a code that a workflow retries, and the stacks of all threads in the log."""

import os

import pytest

from ..small_pipeline import Repository
from .commands import Command, train
from .conftest import MODEL

SECONDS = 9.0
"""Enough for what is silent and healthy, on a busy machine."""
LINE = (
    f"no progress for {SECONDS / 60:g} minutes (watchdog_minutes in params.yaml): something hangs; the stacks of all threads are in stage.log; "
    "the same command continues where it can\n"
)


@pytest.fixture
def watched(training) -> Repository:
    training.edit("params.yaml", lambda p: p.update(watchdog_minutes=SECONDS / 60))
    return training


def test_a_worker_that_waits_for_a_hung_one_ends_the_run_which_can_go_on(watched):
    wanted = (watched.root / MODEL / "manifest.json").read_bytes()
    command = train(watched, 2, "--log", "stage.log", rig={"slow": {"step": 0.05}})
    command.wait_for_phase("checkpoint", 2)
    command.workers()[1].suspend()
    assert command.end(SECONDS + 60) == 75  # torch's launcher gives the hung one half a minute after SIGTERM
    assert command.output == f"error: {LINE}"
    log = (watched.root / "stage.log").read_text()
    assert "in step" in log and log.endswith(LINE)
    command = train(watched, 2)
    assert command.end() == 0, command.output
    assert "continuing after step" in command.output
    assert (watched.root / MODEL / "manifest.json").read_bytes() == wanted


def test_a_stage_that_waits_for_a_file_that_does_not_come_is_ended(watched):
    """A pipe that nobody writes to, in place of the user's table."""
    table = watched.root / "pictures/captions.csv"
    table.unlink()
    os.mkfifo(table)
    command = Command(watched, "glassworks", "records", "pictures", "--log", "stage.log")
    assert command.end(SECONDS + 30) == 75
    assert command.output == f"error: records-pictures: {LINE}"
    assert "in read_rows" in (watched.root / "stage.log").read_text()
