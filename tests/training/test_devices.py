"""Stages that run at once on one machine hold different devices. nvidia-smi is a script here that lists two; the processes and their locks are real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOLD = """
import os, sys
from glassworks.runtime.devices import held_devices
with held_devices(int(sys.argv[1])):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process that holds devices until its input ends."""

    def __init__(self, environment: dict[str, str], most: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(most)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def devices(self) -> list[str]:
        """What it shows to CUDA; waits until it holds it."""
        return self.process.stdout.readline().strip().split(",")

    def end(self) -> str:
        """Let it end; what it said on stderr."""
        return self.process.communicate(timeout=30)[1]


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with two devices, GPU-a and GPU-b."""
    smi = tmp_path / "bin/nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\nprintf '0, GPU-a\\n1, GPU-b\\n'\n")
    smi.chmod(0o755)
    left_out = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"PATH": f"{smi.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}


def test_two_stages_never_share_a_device_and_a_killed_one_frees_its_own(machine):
    first, second = Holder(machine, 1), Holder(machine | {"CUDA_VISIBLE_DEVICES": "1,0"}, 1)
    held = {"0": "GPU-a", "1": "GPU-b"}
    mine, yours = first.devices(), second.devices()
    assert sorted([*mine, held[yours[0]]]) == ["GPU-a", "GPU-b"]
    third = Holder(machine, 2)
    assert third.process.stderr.readline() == "waiting for a free GPU: other stages hold all 2\n"
    first.process.kill()
    assert third.devices() == mine
    assert [first.end(), second.end(), third.end()] == ["", "", ""]


def test_a_stage_takes_as_many_as_it_will_have_workers(machine):
    greedy = Holder(machine, 4)
    assert greedy.devices() == ["GPU-a", "GPU-b"]
    greedy.end()


def test_what_slurm_granted_is_taken_as_it_is(machine):
    granted = machine | {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "1"}
    both = [Holder(granted, 1), Holder(granted, 1)]
    assert [holder.devices() for holder in both] == [["1"], ["1"]]
    for holder in both:
        holder.end()
