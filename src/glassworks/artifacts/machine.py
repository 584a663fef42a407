"""Cores available to this process, and its rank among the nodes of a run."""

import os
from dataclasses import dataclass


def available_cores() -> int:
    """Number of cores in the CPU affinity of this process; all cores of the machine if the system has no affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def unique_name() -> str:
    """A name unique among all processes that share a file system: host name and process id, since process ids repeat across nodes."""
    return f"{os.uname().nodename}-{os.getpid()}"


@dataclass(frozen=True)
class NodeRank:
    """Rank of this process among the processes that srun started for a run, one per node."""

    nodes: int = 1
    node: int = 0

    @property
    def first(self) -> bool:
        """Whether this process owns the lock, the results and the messages of the run."""
        return self.node == 0


def node_rank() -> NodeRank:
    """The rank of this process, from the environment variables of srun; a single node without srun."""
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    return NodeRank(nodes, int(os.environ["SLURM_PROCID"])) if nodes > 1 else NodeRank()
