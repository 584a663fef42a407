"""A polite signal, whoever gets it, saves and ends with the code that is retried; Ctrl-C saves too, twice it stops at once."""

import random
import re
import signal
import time

import pytest

from .commands import Command, newest_step, train
from .conftest import MODEL

TERM, USR2, INT = signal.SIGTERM, signal.SIGUSR2, signal.SIGINT


@pytest.mark.parametrize(
    ("workers", "sent"),
    [
        (1, [(TERM, "the command"), (USR2, "all"), (INT, "all")]),
        (4, [(TERM, "one worker"), (INT, "all")]),
        pytest.param(
            4, [(TERM, "the command"), (TERM, "one worker"), (USR2, "all"), (INT, "all")], marks=pytest.mark.slow
        ),
    ],
)
def test_a_signal_saves_and_the_same_command_continues(training, workers, sent):
    """One run, stopped again and again."""
    manifest = training.root / MODEL / "manifest.json"
    wanted, last = manifest.read_bytes(), 0
    for number, target in sent:
        command = train(training, workers, rig={"slow": {"step": 0.05}})
        command.wait_for_phase("step", 2)
        send(command, number, target)
        code, shown = command.end(), command.output.splitlines()
        if last:
            assert shown.pop(0) == f"train-tiny: continuing after step {last}"
        step, last = last, newest_step(training)
        assert last > step
        if number == INT:
            assert (code, shown) == (130, ["interrupted; the same command continues where it can"])
        else:
            line = f"error: {number.name}: saved after step {last}; the same command continues from there"
            assert (code, shown) == (75, [line])
        assert manifest.read_bytes() == wanted, "what was published before stays"
    command = train(training)
    assert command.end() == 0
    assert f"continuing after step {last}" in command.output
    assert manifest.read_bytes() == wanted


def send(command: Command, number: signal.Signals, target: str) -> None:
    if target == "one worker":
        command.workers()[2].send_signal(number)
    elif target == "all":
        command.send_to_all(number)
    else:
        command.send(number)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_ctrl_c_twice_stops_at_once(training, workers):
    """With steps of a minute, no step is waited for."""
    command = train(training, workers, rig={"slow": {"step": 60}})
    command.wait_for_phase("step")
    command.send_to_all(INT)
    time.sleep(1)
    command.send_to_all(INT)
    assert command.end(seconds=20) == 130
    assert command.output == "interrupted; the same command continues where it can\n"


START = [(TERM, (75, 143)), pytest.param(INT, (130,), marks=pytest.mark.slow)]
"""143 is TERM before there was anything to save."""


@pytest.mark.parametrize(("number", "codes"), START)
def test_a_signal_while_the_fork_server_imports_is_for_the_command_alone(training, number, codes):
    command = train(training, workers=4, rig={"slow": {"step": 0.3}})
    command.wait_for(command.fork_servers)
    time.sleep(random.Random(number).uniform(0, 1))
    command.send_to_all(number)
    assert command.end() in codes, command.output
    assert len(command.output.splitlines()) <= 1


@pytest.mark.parametrize(("number", "codes"), START)
def test_a_signal_while_workers_are_started_is_heeded(training, number, codes):
    command = train(training, workers=4, rig={"slow": {"step": 0.3}})
    command.wait_for_phase("launch")
    time.sleep(random.Random(number).uniform(0, 1))
    command.send_to_all(number)
    assert command.end() in codes, command.output
    assert newest_step(training) < 10


def test_a_worker_whose_launcher_is_gone_before_it_begins_says_nothing(training):
    command = train(training, workers=4)
    command.wait_for_phase("launch")
    [server] = command.fork_servers()
    server.suspend()
    command.wait_for_phase("fork")
    time.sleep(1)  # now a worker is asked for
    command.send(INT)
    time.sleep(1)
    command.send(INT)
    command.wait_for(lambda: False)
    server.resume()
    assert command.end() in (130, -INT), "a shell says 130 for both"
    assert command.output == "interrupted; the same command continues where it can\n"


def test_the_workers_of_a_killed_launcher_save_and_end_by_themselves(training):
    """Its successor waits for them: two runs must not write in one folder."""
    manifest = training.root / MODEL / "manifest.json"
    wanted = manifest.read_bytes()
    killed = train(training, workers=4)
    killed.wait_for_phase("step", 3)
    workers = killed.workers()
    assert len(workers) == 4
    for worker in workers:
        worker.suspend()
    killed.send(signal.SIGKILL)
    successor = train(training, workers=2)
    successor.wait_for(lambda: "waiting for the workers of a killed run to save and end" in successor.output)
    for worker in workers:
        worker.resume()
    assert successor.end() == 0, successor.output
    resumed = re.search(r"continuing after step (\d+)", successor.output)
    assert resumed and int(resumed[1]) >= 3
    assert manifest.read_bytes() == wanted
    assert killed.end() == -signal.SIGKILL
    assert "Traceback" not in killed.output
