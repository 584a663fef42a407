"""Sums of tensors between two processes of one machine, through memory that both map.

A socket of the kernel copies each byte of a gradient twice, in pieces of some kilobytes. Here each side copies its tensor once and adds the other's in place.
"""

import mmap
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

CHUNK_BYTES = 4 << 20
"""Size of a buffer. A larger tensor is exchanged in pieces."""
MARK_BYTES = 8
NAME = "glassworks"
"""Of the anonymous files. Only such a file is opened: a descriptor of another machine may be any file here."""


class Pair:
    """The buffers of this process and of its partner, two of each, used in turn."""

    def __init__(self, own: Tensor, other: Tensor) -> None:
        """Both uint8 [2, CHUNK_BYTES]."""
        self.own, self.other, self.turn = own, other, 0

    def add(self, tensor: Tensor, meet: Callable[[], object]) -> None:
        """Add the partner's tensor to a contiguous `tensor` in place.

        `meet` returns once the partner has called its own as often. It is called once a piece. When a buffer is written again, two pieces later, the partner
        has met for the piece between, so it has read the buffer.
        """
        for piece in tensor.view(-1).split(CHUNK_BYTES // tensor.element_size()):
            size = piece.numel() * piece.element_size()
            own, other = (buffer[self.turn, :size].view(piece.dtype) for buffer in (self.own, self.other))
            self.turn ^= 1
            own.copy_(piece)
            meet()
            piece.add_(other)


def pairs(rank: int, size: int, gather: Callable[[Tensor], Tensor]) -> dict[int, Pair]:
    """The partners of recursive doubling that this process shares memory with, by their distance. All ranks must call this.

    `gather` concatenates the tensors of all ranks. Empty where the system has no anonymous files (memfd, Linux), and for a `size` that is no power of two:
    sums are not possible there. A rank of another machine or container is left out: the descriptor that it names either does not open here or holds another
    mark.
    """
    if size & (size - 1):
        return {}
    distances = [1 << n for n in range(size.bit_length() - 1)]
    each, mark = 2 * CHUNK_BYTES, secrets.token_bytes(MARK_BYTES)
    try:
        descriptor = os.memfd_create(NAME)
        os.ftruncate(descriptor, MARK_BYTES + each * len(distances))
        own = mmap.mmap(descriptor, 0)
        own[:MARK_BYTES] = mark
    except (AttributeError, OSError):
        descriptor = -1
    address = torch.tensor([[os.getpid(), descriptor, int.from_bytes(mark, "big", signed=True)]])
    addresses = gather(address).tolist()
    opened = {distance: _open(*addresses[rank ^ distance]) for distance in distances if descriptor >= 0}
    there = gather(torch.tensor([[int(opened.get(distance) is not None) for distance in distances]]))
    if descriptor >= 0:
        os.close(descriptor)  # the memory lives as long as a process maps it
    result = {}
    for index, distance in enumerate(distances):
        memory = opened.get(distance)
        if memory is not None and there[rank ^ distance, index]:
            start = MARK_BYTES + index * each
            buffers = (torch.frombuffer(one, dtype=torch.uint8)[start : start + each] for one in (own, memory))
            result[distance] = Pair(*(buffer.view(2, CHUNK_BYTES) for buffer in buffers))
    return result


def _open(process: int, descriptor: int, mark: int) -> mmap.mmap | None:
    path = Path(f"/proc/{process}/fd/{descriptor}")
    try:
        if not str(path.readlink()).startswith(f"/memfd:{NAME}"):
            return None
        other = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        memory = mmap.mmap(other, 0)
    except (OSError, ValueError):
        return None
    finally:
        os.close(other)
    return memory if memory[:MARK_BYTES] == mark.to_bytes(MARK_BYTES, "big", signed=True) else None
