"""Cores and the temporary folder available to this process, and its rank among the nodes of a run."""

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from glassworks.errors import ResourceError

TEMPORARY = 1 << 20
"""Bytes that must fit into the folder for temporary files."""


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


def check_temporary_folder() -> None:
    """Raise `ResourceError` unless the folder for temporary files takes `TEMPORARY` bytes: Snakemake and worker processes would end in a traceback.

    The folder is TMPDIR, TEMP or TMP, else /tmp. Python would fall back to another one, but compiled solvers and torch do not.
    """
    named = next((name for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)), None)
    folder = Path(os.environ[named] if named else "/tmp")
    where = f"{named}={folder}" if named else str(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(TEMPORARY))
    except FileNotFoundError:
        fault = "there is no such folder"
    except OSError as error:
        if error.errno == errno.EFBIG:
            return  # a limit on every file says nothing about this folder
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fault = os.strerror(error.errno or 0).lower() + (f" ({_free(folder)})" if full else "")
    else:
        return
    raise ResourceError(
        f"{where}: temporary files cannot be written there: {fault}; run the same command with another folder: TMPDIR=FOLDER"
    )


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MiB free, {TEMPORARY / 2**20:g} MiB needed"
