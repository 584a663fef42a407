"""The rendezvous of the launchers of a run, one per node, started by srun."""

import ipaddress
import os
import re
import socket
import subprocess
from dataclasses import dataclass
from typing import Any

from glassworks.artifacts.machine import NodeRank
from glassworks.errors import ConfigError, ResourceError

MEETING_SECONDS = 600
"""Timeout of the rendezvous. The first node may have to wait for the workers of a killed run."""
FIRST_PORT, PORTS = 20000, 10000
"""Below the ephemeral ports of Linux."""


@dataclass(frozen=True)
class Rendezvous:
    """The address of the first node, and a port and a name that are unique to the run."""

    host: str
    port: int
    name: str

    @property
    def on_one_machine(self) -> bool:
        """Whether all nodes are this machine, as in a test cluster."""
        return _is_loopback(self.host)

    def options(self, node: NodeRank) -> dict[str, Any]:
        """Options of torch's launcher. The static rendezvous keeps the node ranks of srun.

        c10d's would sort nodes by address, so rank 0 could be on any of them.
        """
        return {
            "rdzv_backend": "static",
            "rdzv_endpoint": f"{self.host}:{self.port}",
            "rdzv_configs": {"rank": node.node, "timeout": MEETING_SECONDS},
            "run_id": self.name,
        }


def slurm_rendezvous() -> Rendezvous:
    """The rendezvous described by the variables of srun."""
    nodes, tasks = (int(os.environ[f"SLURM_STEP_NUM_{what}"]) for what in ("NODES", "TASKS"))
    if tasks != nodes:
        raise ConfigError(
            f"srun started {tasks} processes on {nodes} nodes; it must be one on each: --ntasks-per-node 1"
        )
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_STEP_ID", 0))
    listed = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
    return Rendezvous(address(first_of(listed)), FIRST_PORT + (job + step) % PORTS, f"{job}.{step}")


def first_of(nodes: str) -> str:
    """The first node of a SLURM node list: n07 of n[07-09,12],m3."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert first
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def address(node: str) -> str:
    """The address of a node: its name if it resolves, else the NodeAddr of SLURM."""
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
