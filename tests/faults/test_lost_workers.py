"""A worker that is killed, or meets a fault, takes the others with it, quickly; one line says which and why."""

import re
import signal
import time

import pytest

from .commands import checkpoints, newest_step, train
from .conftest import MODEL

SOON = 20.0
"""Seconds, on a busy machine; a worker that nobody ends would wait half an hour for its peer."""


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_a_killed_worker_is_one_line(training, rank):
    manifest = training.root / MODEL / "manifest.json"
    wanted = manifest.read_bytes()
    training.edit("experiments/tiny.yaml", lambda e: e["execution"].update(loader_workers=1))
    command = train(training, workers=4)
    command.wait_for_phase("checkpoint", 2)
    command.workers()[rank].send_signal(signal.SIGKILL)
    assert command.end(SOON) == 6
    assert command.output == (
        f"error: worker {rank} was killed, usually for lack of memory; the same command continues from the last checkpoint\n"
    )
    last = newest_step(training)
    assert last >= 3
    command = train(training, workers=4)
    assert command.end() == 0, command.output
    assert command.output == f"train-tiny: continuing after step {last}\n"
    assert manifest.read_bytes() == wanted


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_loader_process_is_one_line(training, workers):
    manifest = training.root / MODEL / "manifest.json"
    wanted = manifest.read_bytes()
    training.edit("experiments/tiny.yaml", lambda e: e["execution"].update(loader_workers=1))
    command = train(training, workers, rig={"slow": {"step": 0.2}})
    command.wait_for_phase("step", 4)
    [loader] = command.workers()[-1].children()
    loader.kill()
    assert command.end(SOON) == 6, command.output
    assert re.fullmatch(r"error: a loader worker died \(.*\), .*; use fewer loader_workers\n", command.output)
    command = train(training)
    assert command.end() == 0, command.output
    assert manifest.read_bytes() == wanted


def test_a_killed_fork_server_is_one_line(training):
    command = train(training, workers=2)
    command.wait_for_phase("launch")
    [server] = command.fork_servers()
    server.suspend()
    command.wait_for_phase("fork")
    time.sleep(1)  # now the command waits for the server's answer
    server.kill()
    assert command.end(SOON) == 6, command.output
    assert re.fullmatch("error: the server that starts workers was killed, .*\n", command.output)


def test_a_fault_of_ours_is_one_line_and_a_traceback(training):
    log = training.root / "train.log"
    command = train(training, 2, "--log", str(log), rig={"raise_in": [1, 7], "slow": {"step": 0.02}})
    command.wait_for_phase("step", 7)
    assert command.end(SOON) == 1
    *traceback, line = command.output.splitlines()
    remark = "(its traceback stands above, and in the log)"
    assert line == f"error: worker 1 failed: AttributeError: a fault of ours {remark}"
    assert traceback[0].startswith("Traceback") and traceback[-1] == "AttributeError: a fault of ours"
    assert sum(text.startswith("Traceback") for text in traceback) == 1
    assert log.read_text() == command.output
    assert len(checkpoints(training)) == 2
