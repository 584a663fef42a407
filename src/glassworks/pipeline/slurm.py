"""SLURM beyond Snakemake's plugin: check that the cluster can run the jobs, and requeue interrupted ones."""

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
    """Limits of a partition for one job."""

    minutes: float = 0
    gpus: int = 0
    """Largest number of GPUs on a node."""


def check(jobs: Iterable[Any]) -> None:
    """Raise a one-line error if the cluster can never run one of these Snakemake jobs. Call this before submission."""
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
    """Runtime that the last retry requests. SLURM leaves a job pending forever if its runtime exceeds the limit of the partition."""
    job.attempt, first = 1 + job.restart_times, job.attempt
    try:
        return int(job.resources.get("runtime", 0))
    finally:
        job.attempt = first


@contextmanager
def requeued_if_interrupted() -> Iterator[None]:
    """Requeue the enclosing batch job if it is interrupted. A requeue does not count as a retry.

    Only `Interrupted` requeues: a job without progress would run forever.
    """
    try:
        yield
    except Interrupted as interrupted:
        job = os.environ.get("SLURM_JOB_ID")
        if job and _requeue(job):
            raise Interrupted(f"{interrupted} (SLURM will run job {job} again)") from None
        raise


def _requeue(job: str) -> bool:
    """Whether SLURM requeued the job. False if SLURM refuses, or if the job is already cancelled or requeued."""
    if _answer("squeue", "--noheader", "--jobs", job, "--format", "%T") != "RUNNING":
        return False
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends SIGTERM immediately, before the error is printed
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
    """Number of GPUs of any type in a list of generic resources, such as gpu:a100:4(S:0-1),gpu:2,shard:8."""
    items = (item.split(":") for item in re.sub(r"\([^)]*\)", "", devices).split(","))
    return sum(int(last) if (last := item[-1]).isdigit() else 1 for item in items if item[0] == "gpu")


def _running(folder: Path) -> list[str]:
    """Ids of orphaned Snakemake jobs in a folder. They still hold the locks of their stages."""
    listed = _answer("squeue", "--me", "--noheader", "--states", "PENDING,RUNNING,SUSPENDED", "--format", "%A|%k|%Z")
    jobs = [line.split("|") for line in (listed or "").splitlines()]
    return [number for number, comment, where in jobs if comment.startswith("rule_") and where == str(folder)]


def _minutes(limit: str) -> float:
    """Minutes of a SLURM time limit, [DAYS-][[HOURS:]MINUTES:]SECONDS or infinite."""
    if limit == "infinite":
        return float("inf")
    days, _, clock = limit.rpartition("-")
    minutes: float = 24 * 60 * int(days or 0)
    for part, unit in zip(reversed(clock.split(":")), (1 / 60, 1, 60), strict=False):
        minutes += int(part) * unit
    return minutes


def _answer(*command: str) -> str | None:
    """The output of a SLURM command; None if the command fails or takes more than a minute."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
