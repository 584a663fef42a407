"""Sums through shared memory have the bits of sums through sockets, and another machine's memory is not taken for a partner's."""

import os
from dataclasses import replace

import pytest
import torch

from glassworks.runtime.launch import run_workers
from glassworks.training import shared_memory
from glassworks.training.digests import tensor_digest
from glassworks.training.shared_memory import CHUNK_BYTES, MARK_BYTES, _open, pairs
from glassworks.training.workers import SHARED_BYTES, Workers

LINUX = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="anonymous files are Linux's")
COUNTS = [3, SHARED_BYTES // 4, SHARED_BYTES // 4 + 5, CHUNK_BYTES // 4, 2 * CHUNK_BYTES // 4 + 7]
"""Of float32: below, at and above the limits of the two ways and of a buffer."""


def sums(workers: Workers, stop: object) -> dict[str, list[str]]:
    """Digests of sums by both ways, and the distances that share memory."""
    found = {"shared": [], "sockets": [], "distances": sorted(workers.shared)}
    for way, chosen in (("shared", workers), ("sockets", replace(workers, shared={}))):
        for round_ in range(2):
            for count in COUNTS:
                for kind in (torch.float32, torch.bfloat16, torch.float64):
                    generator = torch.Generator().manual_seed(100 * round_ + workers.rank)
                    values = torch.randn(count, generator=generator).to(kind)
                    found[way].append(tensor_digest(chosen.add(values)))
    return found


@LINUX
@pytest.mark.parametrize("count", [2, 4])
def test_sums_have_the_bits_of_sums_through_sockets(tmp_path, count):
    found = run_workers(sums, count=count, device="cpu", folder=tmp_path / "workers")
    assert found["distances"] == [1, 2][: count // 2]
    assert found["shared"] == found["sockets"]
    assert len(set(found["shared"])) == len(found["shared"])


def memories(workers: Workers, stop: object) -> list[int]:
    """The number of partners with shared memory of every rank."""
    return workers.gather(torch.tensor([len(workers.shared)])).tolist()


def test_three_workers_gather_but_have_no_sums(tmp_path):
    assert run_workers(memories, count=3, device="cpu", folder=tmp_path / "workers") == [0, 0, 0]


def without_memory(workers: Workers, stop: object) -> list[int]:
    """The distances that share memory if rank 1 has none."""
    if workers.rank == 1:
        del os.memfd_create
    return sorted(pairs(workers.rank, workers.size, workers.gather))


@LINUX
def test_a_rank_without_anonymous_files_uses_sockets(tmp_path):
    assert run_workers(without_memory, count=4, device="cpu", folder=tmp_path / "workers") == [2]


@LINUX
def test_memory_with_another_mark_is_not_a_partners(tmp_path):
    descriptor = os.memfd_create(shared_memory.NAME)
    try:
        os.ftruncate(descriptor, MARK_BYTES + 2 * CHUNK_BYTES)
        os.pwrite(descriptor, (7).to_bytes(MARK_BYTES, "big", signed=True), 0)
        assert _open(os.getpid(), descriptor, 8) is None
        assert _open(os.getpid(), descriptor, 7) is not None
        assert _open(2**22 + 1, descriptor, 7) is None  # no such process
        with (tmp_path / "file").open("w+b") as file:  # not anonymous
            file.write((7).to_bytes(MARK_BYTES, "big", signed=True) * 2)
            file.flush()
            assert _open(os.getpid(), file.fileno(), 7) is None
    finally:
        os.close(descriptor)
    assert shared_memory._open(os.getpid(), descriptor, 7) is None  # closed
