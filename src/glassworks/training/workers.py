"""The process group of a run: the rank of this worker and exact collectives.

CPU workers use gloo, and shared memory for large sums on one machine. GPU workers use NCCL. Sums follow a fixed tree; gathering copies bits.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from glassworks import watchdog
from glassworks.training.shared_memory import Pair, pairs

CPU = torch.device("cpu")
TIMEOUT = timedelta(minutes=30)
"""Minimum timeout of a collective. The watchdog fires earlier and reports the hang."""

SHARED_BYTES = 64 << 10
"""Minimum size of a tensor that shared memory exchanges faster than a socket."""


class PeerLost(Exception):
    """A peer process died. It reports the cause; this worker exits silently."""


@dataclass(frozen=True)
class Workers:
    """Rank `rank` of `size` workers. With one worker, collectives are no-ops."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    shared: dict[int, Pair] = field(default_factory=dict, repr=False, compare=False)
    """Partners with shared memory, by their distance in `add`."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes logs, checkpoints and the model."""
        return self.rank == 0

    @property
    def sums(self) -> torch.device:
        """The device of float64 sums: mps has no float64."""
        return CPU if self.device.type == "mps" else self.device

    def part(self, count: int) -> range:
        """The contiguous block of `count` items of this rank. Block sizes differ by at most one; rank 0 has a largest block."""
        start, stop = (-(-rank * count // self.size) for rank in (self.rank, self.rank + 1))
        return range(start, stop)

    def add(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over all ranks in place, by recursive doubling: neighbours first, then pairs, then fours.

        This continues the binary tree in which each rank summed its own micro-batches. Peers compute a + b and b + a, which have equal bits. The number of
        ranks must be a power of two.
        """
        distance = 1
        large = tensor.device == CPU and tensor.is_contiguous() and tensor.nbytes >= SHARED_BYTES
        while distance < self.size:
            peer = self.rank ^ distance
            if large and distance in self.shared:
                byte = torch.zeros(1, dtype=torch.uint8)
                self.shared[distance].add(tensor, partial(self._swap, byte, peer))
            else:
                tensor.add_(self._swap(tensor, peer))
            distance *= 2
        return tensor

    def _swap(self, tensor: Tensor, peer: int) -> Tensor:
        """The tensor of a peer, which gets `tensor`."""
        received = torch.empty_like(tensor)
        with _peers():
            exchange = [dist.P2POp(dist.isend, tensor, peer), dist.P2POp(dist.irecv, received, peer)]
            for work in dist.batch_isend_irecv(exchange):
                work.wait()
        return received

    def gather(self, tensor: Tensor) -> Tensor:
        """The equally shaped tensors of all ranks, concatenated along the first dimension in the order of ranks."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _peers():
            dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def broadcast(self, number: int) -> int:
        """The number of rank 0."""
        if self.size == 1:
            return number
        tensor = torch.tensor([number], device=self.device)
        with _peers():
            dist.broadcast(tensor, 0)
        return int(tensor)

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.size > 1:
            with _peers():
                dist.barrier()


@contextmanager
def joined() -> Iterator[Workers]:
    """The workers of the process group that the environment describes (RANK, WORLD_SIZE, …, set by torch's launcher)."""
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    cuda = os.environ.get("GLASSWORKS_DEVICE") == "cuda"
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    timeout = max(TIMEOUT, timedelta(seconds=2 * (watchdog.limit() or 0)))
    with _peers():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout, device_id=device if cuda else None)
    try:
        workers = Workers(rank, size, device)
        yield workers if cuda or size == 1 else replace(workers, shared=pairs(rank, size, workers.gather))
    finally:
        dist.destroy_process_group()


@contextmanager
def _peers() -> Iterator[None]:
    """Raise `PeerLost` for an error in a collective: a peer died."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        raise PeerLost(str(error)) from error
