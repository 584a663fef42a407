"""Two commands with the variables that srun sets on two nodes, on this machine: one run, the bytes of one worker, one voice."""

import itertools
import os
import shutil
import signal

import pytest

from ..small_pipeline import Repository
from .commands import Command, newest_step, train
from .conftest import MODEL

BOUND = 30.0
"""Seconds from the death of a worker to the end of the last process, on a busy machine."""
JOBS = itertools.count(os.getpid() * 10)
"""Each has a port of its own, also beside other processes that test."""


def on_two_nodes(repository: Repository, workers: int = 2, **options) -> list[Command]:
    """`glassworks train tiny` on both, as `srun --nodes 2 --ntasks-per-node 1` starts it."""
    job = str(next(JOBS))
    step = {
        "SLURM_JOB_ID": job,
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "2",
    }
    return [train(repository, workers, environment={**step, "SLURM_PROCID": str(node)}, **options) for node in range(2)]


@pytest.fixture
def spread(training) -> Repository:
    training.edit("experiments/tiny.yaml", lambda e: e["execution"].update(nodes=2))
    return training


@pytest.mark.slow
def test_two_nodes_of_two_workers_stopped_on_one_of_them_give_the_bytes_of_one_worker(spread):
    wanted = (spread.root / MODEL / "manifest.json").read_bytes()
    shutil.rmtree(spread.root / MODEL)
    nodes = on_two_nodes(spread, rig={"slow": {"step": 0.05}})
    nodes[0].wait_for_phase("step", 3)
    nodes[1].send(signal.SIGTERM)
    assert [node.end(BOUND) for node in nodes] == [75, 75]
    last = newest_step(spread)
    line = f"error: SIGTERM: saved after step {last}; the same command continues from there\n"
    assert [node.output for node in nodes] == [line, ""]
    nodes = on_two_nodes(spread)
    assert [node.end() for node in nodes] == [0, 0]
    assert [node.output for node in nodes] == [f"train-tiny: continuing after step {last}\n", ""]
    assert (spread.root / MODEL / "manifest.json").read_bytes() == wanted


def test_a_worker_killed_on_one_node_ends_the_run_and_the_retry_gives_the_same_bytes(spread):
    manifest = spread.root / MODEL / "manifest.json"
    wanted = manifest.read_bytes()
    nodes = on_two_nodes(spread, rig={"slow": {"step": 0.05}})
    nodes[0].wait_for_phase("checkpoint", 2)
    nodes[1].workers()[1].send_signal(signal.SIGKILL)
    assert [node.end(BOUND) for node in nodes] == [6, 6]
    line = "worker 3 was killed, usually for lack of memory; the same command continues from the last checkpoint"
    assert [node.output for node in nodes] == [f"error: {line}\n", ""]
    assert newest_step(spread) >= 3
    nodes = on_two_nodes(spread, workers=1)
    assert [node.end() for node in nodes] == [0, 0], nodes[0].output
    assert "continuing after step" in nodes[0].output
    assert manifest.read_bytes() == wanted
