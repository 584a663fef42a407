"""Where the launchers of a run meet that srun started, one on each node."""

import ipaddress
import os
import re
import socket
import subprocess
from dataclasses import dataclass
from typing import Any

from glassworks.artifacts.machine import Place
from glassworks.errors import ConfigError, ResourceError

MEETING_SECONDS = 600
"""How long nodes wait for each other; the first may have to wait for the workers of a killed run."""
FIRST_PORT, PORTS = 20000, 10000
"""Below the ports that Linux gives away by itself."""


@dataclass(frozen=True)
class Meeting:
    """The first node's address, and a port and a name that no other run has there."""

    host: str
    port: int
    name: str

    @property
    def on_one_machine(self) -> bool:
        """Whether all nodes are this machine, as in a cluster for tests."""
        return _is_loopback(self.host)

    def options(self, place: Place) -> dict[str, Any]:
        """For torch's launcher. Its static rendezvous numbers the nodes as srun does; c10d's would sort them by address, and worker 0, which writes and
        reports, might be on any of them."""
        return {
            "rdzv_backend": "static",
            "rdzv_endpoint": f"{self.host}:{self.port}",
            "rdzv_configs": {"rank": place.node, "timeout": MEETING_SECONDS},
            "run_id": self.name,
        }


def meeting() -> Meeting:
    """By the variables that srun sets."""
    nodes, tasks = (int(os.environ[f"SLURM_STEP_NUM_{what}"]) for what in ("NODES", "TASKS"))
    if tasks != nodes:
        raise ConfigError(
            f"srun started {tasks} processes on {nodes} nodes; it must be one on each: --ntasks-per-node 1"
        )
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_STEP_ID", 0))
    listed = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
    return Meeting(address(first_of(listed)), FIRST_PORT + (job + step) % PORTS, f"{job}.{step}")


def first_of(nodes: str) -> str:
    """The first name of a list as SLURM writes it: n07 of n[07-09,12],m3."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert first
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def address(node: str) -> str:
    """Where a node is reached: under its name, or where SLURM says, if its name is no host's."""
    if _resolves(node):
        return node
    try:
        shown = subprocess.run(
            ["scontrol", "show", "--oneliner", "node", node], capture_output=True, text=True, check=False, timeout=60
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        shown = ""
    if found := re.search(r"\bNodeAddr=(\S+)", shown):
        return found[1]
    raise ResourceError(f"the node {node} has no address: its name is no host's, and scontrol does not tell")


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
