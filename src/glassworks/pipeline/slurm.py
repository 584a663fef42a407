"""What is asked of SLURM beside what Snakemake's plugin asks: whether the cluster can run the jobs at all, and another life for an interrupted one."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassworks.config.base import nearest
from glassworks.errors import ConfigError, Interrupted, ResourceError


@dataclass
class Partition:
    """What one job may ask of a partition."""

    minutes: float = 0
    gpus: int = 0
    """Of the node that has most of them."""


def check(jobs: Iterable[Any]) -> None:
    """Raise one line when the cluster would never run one of these Snakemake jobs, before any of them is submitted."""
    if not shutil.which("sbatch"):
        raise ConfigError(
            "sbatch is not on the PATH; run this on a login node of the cluster, or without the SLURM profile"
        )
    partitions = _partitions()
    if running := _running(Path.cwd()):
        numbers = " ".join(running)
        raise ResourceError(f"jobs of an earlier run are still at work here; wait for them, or `scancel {numbers}`")
    for job in jobs:
        name, asked = str(job.resources.get("slurm_partition", "")), f"rule {job.rule.name} asks for"
        if name and name not in partitions:
            raise ConfigError(f"{asked} partition {name!r}, which sinfo does not show{nearest(name, list(partitions))}")
        if not name:
            continue
        partition, gpus, nodes = partitions[name], job.resources.get("gpu", 0), job.resources.get("nodes", 1)
        if gpus and nodes > 1:
            raise ConfigError(
                f"{asked} gpu: {gpus} on {nodes} nodes, which SLURM takes for the whole job; use gres: gpu:NUMBER, which is for each node"
            )
        if (gpus := gpus or _gpus(job.resources.get("gres", ""))) > partition.gpus:
            raise ConfigError(f"{asked} {gpus} GPUs; a node of partition {name} has {partition.gpus}")
        if (minutes := _minutes_of_last_attempt(job)) > partition.minutes:
            raise ConfigError(f"{asked} up to {minutes} minutes; partition {name} allows {partition.minutes:.0f}")


def _minutes_of_last_attempt(job: Any) -> int:
    """Beyond a partition's limit SLURM would leave it pending for ever."""
    job.attempt, first = 1 + job.restart_times, job.attempt
    try:
        return job.resources.get("runtime", 0)
    finally:
        job.attempt = first


@contextmanager
def requeued_if_interrupted() -> Iterator[None]:
    """In a batch job: have SLURM run the job again when it was interrupted, so that it costs none of the retries meant for failures.

    Only `Interrupted` counts: a job that did not get further would run again for ever.
    """
    try:
        yield
    except Interrupted as interrupted:
        job = os.environ.get("SLURM_JOB_ID")
        if job and _requeue(job):
            raise Interrupted(f"{interrupted} (SLURM will run job {job} again)") from None
        raise


def _requeue(job: str) -> bool:
    """False where SLURM refuses, or the job is ending already: cancelled, or requeued by SLURM itself."""
    if _answer("squeue", "--noheader", "--jobs", job, "--format", "%T") != "RUNNING":
        return False
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends it at once, and there is a line left to say
    return _answer("scontrol", "requeue", job) is not None


def _partitions() -> dict[str, Partition]:
    listed = _answer("sinfo", "--noheader", "--format", "%R|%l|%G")
    if listed is None:
        raise ResourceError("SLURM does not answer (sinfo failed); the same command continues when it does")
    found: dict[str, Partition] = {}
    for line in listed.splitlines():
        name, limit, devices = line.split("|")
        partition = found.setdefault(name, Partition())
        partition.minutes = max(partition.minutes, _minutes(limit))
        partition.gpus = max(partition.gpus, _gpus(devices))
    return found


def _gpus(devices: str) -> int:
    """How many GPUs are among generic resources, of whatever types: gpu:a100:4(S:0-1),gpu:2,shard:8."""
    items = (item.split(":") for item in re.sub(r"\([^)]*\)", "", devices).split(","))
    return sum(int(last) if (last := item[-1]).isdigit() else 1 for item in items if item[0] == "gpu")


def _running(folder: Path) -> list[str]:
    """Numbers of the jobs of a Snakemake that lost sight of them; they hold the locks of their stages."""
    listed = _answer("squeue", "--me", "--noheader", "--states", "PENDING,RUNNING,SUSPENDED", "--format", "%A|%k|%Z")
    jobs = [line.split("|") for line in (listed or "").splitlines()]
    return [number for number, comment, where in jobs if comment.startswith("rule_") and where == str(folder)]


def _minutes(limit: str) -> float:
    """SLURM's [DAYS-][[HOURS:]MINUTES:]SECONDS."""
    if limit == "infinite":
        return float("inf")
    days, _, clock = limit.rpartition("-")
    minutes = 24 * 60 * int(days or 0)
    for part, unit in zip(reversed(clock.split(":")), (1 / 60, 1, 60), strict=False):
        minutes += int(part) * unit
    return minutes


def _answer(*command: str) -> str | None:
    """What a command of SLURM's says; None when it fails or is silent for a minute."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
