"""Runs of the engine in worker processes, for its tests."""

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from glassworks.errors import ResourceError
from glassworks.runtime import fork_server
from glassworks.runtime.launch import run_workers
from glassworks.runtime.signals import StopRequest
from glassworks.stages import train as stage
from glassworks.training.loop import Fitted, Run, fit
from glassworks.training.workers import Workers

from .objectives import a_run


class Stopped(Exception):
    """A run that was ended on purpose, as hard as a kill."""


def sha256(fitted: Fitted) -> str:
    """Of the final weights."""
    return hashlib.sha256(save(fitted.model.state_dict())).hexdigest()


def stage_run(
    experiment: Any, task: Any, part: Any, folder: Path, base: Path | None = None, **settings: Any
) -> Run[Any, Any]:
    """The run that the stage `train` makes of an experiment, on one part in memory."""
    return Run(
        name=folder.name,
        folder=folder,
        task=task,
        batches=partial(stage._batches, [part], experiment, task, 5),
        held_out=None,
        seed=5,
        optimization=experiment.optimization,
        training=experiment.training,
        execution=experiment.execution,
        start=stage._start(task, base, 5),
        **settings,
    )


def train(folder: Path, task: Any, workers: int = 1, **settings: Any) -> dict[str, Any]:
    """Train in `folder`, going on from what is there; the digest of the weights and what else there is to know."""
    return run_workers(_train, folder, task, settings, count=workers, device="cpu", folder=folder / "workers")


def finish(make: Callable[..., Run], settings: dict[str, Any], workers: int = 1, device: str = "cpu") -> dict[str, Any]:
    """Take the run `make(**settings)` to its end in worker processes; the digest of its weights, and the conditions of the first worker."""
    return run_workers(_finish, make, settings, count=workers, device=device, folder=settings["folder"] / "workers")


def kill(make: Callable[..., Run], settings: dict[str, Any], workers: int = 1, device: str = "cpu") -> None:
    """Train until the worker `settings["rank"]` kills itself."""
    if workers > 1:
        with pytest.raises(ResourceError, match=f"worker {settings['rank']} was killed"):
            finish(make, settings, workers, device)
    else:
        fork_server.start("glassworks.stages.train")
        alone = multiprocessing.get_context("forkserver").Process(
            target=_finish, args=(Workers(device=torch.device(device)), StopRequest(), make, settings)
        )
        alone.start()
        alone.join()
        assert alone.exitcode == -9


def _finish(
    workers: Workers, stop: StopRequest, make: Callable[..., Run], settings: dict[str, Any]
) -> dict[str, Any] | None:
    cuda = workers.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(workers.device)
    fitted = fit(make(**settings), workers, stop)
    if not workers.first:
        return None
    return {
        "sha256": sha256(fitted),
        "resumed": fitted.resumed_step,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "megabytes": torch.cuda.max_memory_allocated(workers.device) / 1e6 if cuda else None,
    }


def train_until(folder: Path, step: int, task: Any, **settings: Any) -> None:
    """Leave `folder` as a run leaves it that is killed after `step` steps, alone: logs may be ahead of the checkpoint."""
    run = a_run(folder, task, **settings)

    def cut(first: int, part: range) -> Any:
        batches = run.batches(first, part)
        for _ in range(first, step):
            yield next(batches)
        raise Stopped

    cut_run = Run(**{**vars(run), "batches": cut})
    try:
        fit(cut_run, Workers(), StopRequest())
    except Stopped:
        return
    raise AssertionError(f"the run was over before step {step}")


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _train(workers: Workers, stop: StopRequest, folder: Path, task: Any, settings: dict[str, Any]) -> dict[str, Any]:
    fitted = fit(a_run(folder, task, **settings), workers, stop)
    if not workers.first:
        return {}
    return {
        "sha256": sha256(fitted),
        "step": fitted.step,
        "published": fitted.published_step,
        "resumed": fitted.resumed_step,
    }
