"""Opens the project in the current folder and runs its stages."""

import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from glassworks.artifacts.machine import check_temporary_folder, node_rank
from glassworks.console import copied_to, uninterrupted
from glassworks.errors import ConfigError, Stalled
from glassworks.watchdog import Watchdog

RUNNING = Path(__file__).resolve().parents[1]
"""Folder of the running package."""
OPTIMIZERS = "torch._dynamo"
"""The first optimizer of torch imports it: two seconds, in each worker unless the fork server has done it."""


def run_the_projects_code() -> None:
    """Re-exec with this project's own source if the installed package belongs to another checkout (a git worktree, a queued experiment).

    The key of a stage digests the project's source, so no other source may run the stage. Child processes inherit PYTHONPATH.
    """
    if not _is_another(Path("src/glassworks")):
        return
    source, before = str(Path("src").resolve()), os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if before[0] != source:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, *before]))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_another(package: Path) -> bool:
    return package.is_dir() and package.resolve() != RUNNING


def open_table(root: Path | None = None) -> Any:
    """The stage table of the project in `root` (default: the current folder). Raises `ConfigError` if the running code is not the project's."""
    from glassworks.config.project import load_project
    from glassworks.pipeline.stage import PACKAGE
    from glassworks.pipeline.table import Table

    root = root or Path.cwd()
    if _is_another(root / PACKAGE):
        raise ConfigError(
            f"this glassworks runs from {RUNNING}, but this project's code is in {root / PACKAGE}; use this project's .venv/bin/glassworks"
        )
    return Table(load_project(root))


def run_stage(
    name: str,
    threads: int = 1,
    log: Path | None = None,
    job: int | None = None,
    root: Path | None = None,
    workers: int | None = None,
) -> None:
    """Run one stage of the project, or its parallel job number `job`."""
    from glassworks.pipeline.execution import check_device, check_inputs, execute, execute_job, skip
    from glassworks.pipeline.freshness import restore_unchanged
    from glassworks.pipeline.slurm import requeued_if_interrupted
    from glassworks.runtime import fork_server

    with copied_to(_own_log(log)):
        check_temporary_folder()
        table = open_table(root)
        stage = table[name]
        check_device(stage)
        check_inputs(table, stage)
        if restore_unchanged(table, stage):
            print(f"{name}: its inputs have the content of before, and so has {stage.directory}", file=sys.stderr)
            skip(table, stage, job)
            return
        set_instruction_set(table.project.params.determinism.cpu_isa)
        # torch prints C++ stacks if a peer process ends first; the workers report the actual error themselves
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        if stage.kind in ("train", "evaluate") and max(threads, workers or 1) > 1:
            modules = [f"glassworks.{entry}" for entry in stage.entries]
            fork_server.start(*modules, *([OPTIMIZERS] if stage.kind == "train" else []))
        if job is not None and job >= stage.jobs:
            raise ConfigError(f"{name} has {stage.jobs} jobs, 0 to {stage.jobs - 1}; there is no job {job}")
        run = runner(stage.kind, "run" if job is None else "run_job")
        with Watchdog(_seconds(table.project.params.watchdog_minutes), partial(_end_stalled, name)):
            if job is None:
                with requeued_if_interrupted():
                    execute(table, stage, run, threads, workers)
            else:
                execute_job(table, stage, job, run, threads)


def _own_log(log: Path | None) -> Path | None:
    """The log file of this node. Each node has its own, since appending is not atomic on shared file systems."""
    node = node_rank().node
    return log.with_suffix(f".node{node}{log.suffix}") if log and node else log


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else minutes * 60


def _end_stalled(name: str, message: str) -> None:
    """Kill the child processes and exit. Called by the watchdog thread, since the main thread hangs."""
    print(f"error: {name}: {message}", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(Stalled.exit_code)


def set_instruction_set(cpu_isa: str) -> None:
    """Set the environment variables that affect bits. Call this before importing torch.

    They fix the CPU instruction set, one thread per process, and the cuBLAS workspace.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if cpu_isa == "avx2":
        os.environ["ATEN_CPU_CAPABILITY"], os.environ["ONEDNN_MAX_CPU_ISA"] = "avx2", "AVX2"
        os.environ["MKL_ENABLE_INSTRUCTIONS"], os.environ["OPENBLAS_CORETYPE"] = "AVX2", "Haswell"


def runner(kind: str, function: str = "run") -> Callable[..., dict[str, Any]]:
    """The function that runs stages of a kind. Imports torch if the stage needs torch."""
    with uninterrupted():
        run: Callable[..., dict[str, Any]] = getattr(importlib.import_module(f"glassworks.stages.{kind}"), function)
    return partial(_run_and_read, run) if kind == "weights" else run


def _run_and_read(run: Callable[[Any], dict[str, Any]], context: Any) -> dict[str, Any]:
    """Run the stage `weights`, then read the weights as training will.

    Not part of the stage, whose key would then hold all of models/: a change there would download the weights again.
    """
    counts = run(context)
    with uninterrupted():
        from glassworks.inference.published import check_published
    check_published(context.output)
    return counts
