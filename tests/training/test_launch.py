"""How many workers there are, and what a user hears of them. Kills and signals: tests/faults."""

import os
import subprocess
import sys

import pytest
import torch

from glassworks.cli.running import OPTIMIZERS
from glassworks.errors import ConfigError
from glassworks.runtime.launch import card, device_kind, process_count, run_workers, worker_count
from glassworks.runtime.nodes import first_of


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)))


@pytest.mark.parametrize(
    ("micro_batches", "threads", "count"),
    [(8, 1, 1), (8, 2, 2), (8, 3, 2), (8, 4, 4), (8, 8, 4), (2, 8, 2), (1, 8, 1)],
)
def test_as_many_workers_as_granted_cores_that_exist_a_power_of_two(micro_batches, threads, count):
    assert worker_count(micro_batches, threads, "cpu") == count


def test_the_user_may_ask_for_any_possible_number():
    assert worker_count(8, 1, "cpu", wanted=8) == 8
    for impossible in (3, 16):
        with pytest.raises(ConfigError, match=f"--workers {impossible}: with 8 micro-batches it may be 1, 2, 4, 8"):
            worker_count(8, 1, "cpu", wanted=impossible)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_kind("auto") == device_kind("cpu") == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        device_kind("cuda")


def test_mps_is_used_only_where_it_is_asked_for_and_there(monkeypatch):
    for there in (False, True):
        monkeypatch.setattr("torch.backends.mps.is_available", lambda there=there: there)
        assert device_kind("auto") == device_kind("cpu") == "cpu"
        if there:
            assert device_kind("mps") == "mps" and process_count(8, "mps") == worker_count(8, 8, "mps") == 1
        else:
            with pytest.raises(
                ConfigError, match=r"^device: mps, but this machine has no Apple GPU that torch can use"
            ):
                device_kind("mps", "device")


def test_the_fingerprint_names_the_card(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"card {device.index}")
    assert card(torch.device("cuda", 1)) == {"card": "card 1"} and card(torch.device("cpu")) == {}


@pytest.mark.parametrize(("device", "there", "wanted"), [("cuda", 2, 4), ("mps", 1, 2)])
def test_more_workers_than_devices_are_refused_before_any_starts(tmp_path, monkeypatch, device, there, wanted):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    line = f"^--workers {wanted}: {device} has {there} here, and every worker needs one$"
    with pytest.raises(ConfigError, match=line):
        run_workers(place, count=wanted, device=device, folder=tmp_path / "w")
    assert not list(tmp_path.iterdir())


def place(workers, stop):
    return [workers.rank, workers.size, workers.first, [list(workers.part(5))]]


def test_the_value_of_the_first_worker_comes_back(tmp_path):
    assert run_workers(place, count=1, device="cpu", folder=tmp_path / "w") == [0, 1, True, [[0, 1, 2, 3, 4]]]
    assert run_workers(place, count=2, device="cpu", folder=tmp_path / "w") == [0, 2, True, [[0, 1, 2]]]
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("node7", "node7"),
        ("a,b[1-3]", "a"),
        ("n[07-09,12],m3", "n07"),
        ("rack[1,4]n[2-5]-ib", "rack1n2-ib"),
    ],
)
def test_the_first_node_of_a_list_as_slurm_writes_it(listed, first):
    assert first_of(listed) == first


def test_what_the_fork_server_imports_starts_no_thread_and_asks_for_no_device():
    """A forked worker could use neither."""
    script = f"""
import os, sys
from pathlib import Path
import torch
asked = []
for module, name in ((torch.cuda, "is_available"), (torch.cuda, "_lazy_init"), (torch._C, "_cuda_getDeviceCount")):
    setattr(module, name, lambda *given, name=name, kept=getattr(module, name): asked.append(name) or kept(*given))
before = len(os.listdir("/proc/self/task")) if Path("/proc/self/task").exists() else 0
import glassworks.stages.train, {OPTIMIZERS}
after = len(os.listdir("/proc/self/task")) if Path("/proc/self/task").exists() else 0
print(before == after, asked)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "True []\n"
