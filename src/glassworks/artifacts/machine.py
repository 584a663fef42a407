"""How many cores this process may use, and its place among the nodes of a run."""

import os
from dataclasses import dataclass


def available_cores() -> int:
    """Those it is bound to, where the system tells; else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def unique_name() -> str:
    """What no other process has that may write to the same folder now: process ids are equal on two nodes."""
    return f"{os.uname().nodename}-{os.getpid()}"


@dataclass(frozen=True)
class NodeRank:
    """Which of the processes this one is that srun started for a run, one on each node."""

    nodes: int = 1
    node: int = 0

    @property
    def first(self) -> bool:
        """Whether this process owns the run: its lock, its results, what is said about it."""
        return self.node == 0


def node_rank() -> NodeRank:
    """By the variables that srun sets; a process that it did not start stands alone."""
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    return NodeRank(nodes, int(os.environ["SLURM_PROCID"])) if nodes > 1 else NodeRank()
