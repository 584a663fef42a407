"""One run on two nodes of the cluster, two workers on each: the bytes of one worker, though one is killed and the job is put back into the queue."""

import re
import shutil
import signal
import time

import psutil
import pytest

from .conftest import Run, ask, fact, use_cluster, wait_for

pytestmark = pytest.mark.cluster

BOUND = 30
"""Seconds from the death of a worker to the end of the job."""


def workers_on(node: str, root: str) -> list[psutil.Process]:
    """The training workers of a job in this folder that run on one of its nodes."""
    found = []
    for process in psutil.process_iter(["cwd", "environ"]):
        environment = process.info["environ"] or {}
        if process.info["cwd"] == root and environment.get("SLURMD_NODENAME") == node and process.children() == []:
            found += [process] if "multiprocessing.forkserver" in " ".join(process.cmdline()) else []
    return found


def test_two_nodes_train_the_bytes_of_one_worker_whatever_happens(training, together):
    training.edit("experiments/tiny.yaml", lambda e: e["execution"].update(nodes=2, workers_per_node=2))
    use_cluster(training)
    run = Run(training, seconds=0.5)
    wanted = run.manifest.read_bytes()
    shutil.rmtree(run.manifest.parent)
    run.wait_for_steps()
    first = run.job
    assert [run.fact(name) for name in ("NumNodes", "NumTasks", "TresPerNode")] == ["2", "2", "gres:gpu:1"]
    nodes = re.fullmatch(r"n\[(\d)[-,](\d)\]", run.fact("NodeList")).groups()
    workers_on(f"n{nodes[1]}", str(training.root))[0].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: fact(first, "JobState") == "FAILED", BOUND)
    print(f"the job ended {time.monotonic() - killed:.1f} s after its worker")
    wait_for(lambda: run.job != first and run.fact("JobState") == "RUNNING")
    run.wait_for_steps()
    second = run.job
    print(ask("scontrol", "requeue", second))
    wait_for(lambda: fact(second, "Restarts") == "1")
    assert run.end() == 0, run.command.output
    assert run.manifest.read_bytes() == wanted
