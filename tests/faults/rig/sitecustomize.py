"""Rigs every `glassworks train` that has this folder on its PYTHONPATH and GLASSWORKS_RIG in its environment; the code itself runs unchanged.

GLASSWORKS_RIG is JSON: "announce" is a file to which the first worker appends "+PHASE" and "-PHASE" when a phase of training begins and ends; "slow" has
seconds by which phases, or "flush", take longer, phases until the file "hurry" is there; "raise_in" is a worker and a step, at which it meets a fault.
"""

import importlib.util
import json
import os
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

RIG = {"announce": os.devnull, "slow": {}, "hurry": "", **json.loads(os.environ.get("GLASSWORKS_RIG", "{}"))}


def announce(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        descriptor = os.open(RIG["announce"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{text}\n".encode())
        os.close(descriptor)


def phase(name: str, owner: Any, attribute: str) -> None:
    """Announce when `owner.attribute` begins and ends, and prolong it."""
    function = getattr(owner, attribute)

    def announced(*arguments: Any, **options: Any) -> Any:
        announce(f"+{name}")
        if not (RIG["hurry"] and Path(RIG["hurry"]).exists()):
            time.sleep(RIG["slow"].get(name, 0))
        found = function(*arguments, **options)
        announce(f"-{name}")
        return found

    setattr(owner, attribute, announced)


def slow_flushes(seconds: float) -> None:
    flush = os.fsync
    os.fsync = lambda descriptor: (time.sleep(seconds), flush(descriptor))


def raise_in(worker: int, at: int) -> None:
    from glassworks.training.step import Trainer

    function = Trainer.step

    def faulty(self: Trainer, batches: Any, step: int, *arguments: Any) -> Any:
        if (self.workers.rank, step) == (worker, at):
            raise AttributeError("a fault of ours")
        return function(self, batches, step, *arguments)

    Trainer.step = faulty


def rig() -> None:
    from multiprocessing import popen_forkserver

    from glassworks.pipeline import execution
    from glassworks.stages import train as run
    from glassworks.training import checkpoint, loop, step

    if "raise_in" in RIG:
        raise_in(*RIG["raise_in"])
    if "flush" in RIG["slow"]:
        slow_flushes(RIG["slow"]["flush"])
    phase("launch", run, "run_workers")
    phase("fork", popen_forkserver.Popen, "_launch")
    phase("fit", run, "fit")
    phase("step", step.Trainer, "step")
    phase("validation", loop, "validate")
    phase("checkpoint", checkpoint.Checkpoints, "_write")
    phase("publication", execution, "publish")


class Rigging(MetaPathFinder):
    """Rigs as soon as the stage is imported, in the command and in the fork server."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "glassworks.stages.train":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), rig())
        return spec


if "GLASSWORKS_RIG" in os.environ:
    sys.meta_path.insert(0, Rigging())
