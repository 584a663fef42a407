"""The workers of a run as one of them sees it: its place among them, and the ways in which they exchange tensors.

CPU workers talk gloo, GPU workers NCCL. Everything here is exact: adding across workers follows a fixed tree, gathering moves bits.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from glassworks import watchdog

CPU = torch.device("cpu")
TIMEOUT = timedelta(minutes=30)
"""Of an exchange, at least: a watchdog comes first, and tells where it hangs."""


class PeerLost(Exception):
    """Another worker is gone. It knows why; this one ends without a word."""


@dataclass(frozen=True)
class Workers:
    """Worker `rank` of `size`; alone, nothing is exchanged."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """Whether this worker writes what is written once: logs, checkpoints, the model."""
        return self.rank == 0

    def part(self, count: int) -> range:
        """This worker's contiguous block of `count` things; blocks differ by one at most, the first is never smaller than another."""
        start, stop = (-(-rank * count // self.size) for rank in (self.rank, self.rank + 1))
        return range(start, stop)

    def add(self, tensor: Tensor) -> Tensor:
        """Add `tensor` over all workers, in place, by recursive doubling: neighbours first, then pairs, then fours.

        This continues the binary tree in which each worker added its own part. Both sides of an exchange compute a + b and b + a, which are equal bit for bit.
        """
        distance = 1
        while distance < self.size:
            received = torch.empty_like(tensor)
            peer = self.rank ^ distance
            with _peers():
                exchange = [dist.P2POp(dist.isend, tensor, peer), dist.P2POp(dist.irecv, received, peer)]
                for work in dist.batch_isend_irecv(exchange):
                    work.wait()
            tensor.add_(received)
            distance *= 2
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the equally shaped tensors of all workers along the first dimension, in the order of the workers."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _peers():
            dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def from_first(self, number: int) -> int:
        """The number that the first worker gives."""
        if self.size == 1:
            return number
        tensor = torch.tensor([number], device=self.device)
        with _peers():
            dist.broadcast(tensor, 0)
        return int(tensor)

    def wait_for_all(self) -> None:
        """Return when every worker has come here."""
        if self.size > 1:
            with _peers():
                dist.barrier()


@contextmanager
def joined() -> Iterator[Workers]:
    """Join the process group that the environment describes (RANK, WORLD_SIZE, …: set by torch's launcher)."""
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    cuda = os.environ.get("GLASSWORKS_DEVICE") == "cuda"
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    timeout = max(TIMEOUT, timedelta(seconds=2 * (watchdog.limit() or 0)))
    with _peers():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout, device_id=device if cuda else None)
    try:
        yield Workers(rank, size, device)
    finally:
        dist.destroy_process_group()


@contextmanager
def _peers() -> Iterator[None]:
    """What goes wrong between processes is another one's end."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        raise PeerLost(str(error)) from error
