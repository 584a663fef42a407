"""Sums in a fixed tree: the same bits however the leaves are spread over workers."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from glassworks.runtime.launch import run_workers
from glassworks.training import reduction
from glassworks.training.reduction import ExactReduction, TreeSum, clip_by_norm
from glassworks.training.workers import Workers

PARTS = 8


def leaves(count: int, size: int = 1000) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(size, generator=generator) * 10 ** torch.randint(-6, 6, (1,), generator=generator)
        for _ in range(count)
    ]


def tree(tensors: list[torch.Tensor]) -> torch.Tensor:
    total = TreeSum()
    for tensor in tensors:
        total.add([tensor.clone()])
    return total.total()[0]


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_workers_that_hold_whole_subtrees_get_the_same_bits(workers):
    parts, size = leaves(8), 8 // workers
    partial = [tree(parts[start : start + size]) for start in range(0, 8, size)]
    assert torch.equal(tree(partial), tree(parts))


def test_the_order_of_a_running_sum_would_have_mattered():
    parts = leaves(8)
    assert not torch.equal(sum(parts[1:], parts[0].clone()), tree(parts))


def test_at_most_log_n_plus_one_partial_sums_are_held():
    total = TreeSum()
    for index, tensor in enumerate(leaves(64)):
        total.add([tensor])
        assert len(total.partial) <= (index + 1).bit_length()


def test_a_number_of_leaves_that_is_no_power_of_two_is_refused():
    with pytest.raises(AssertionError):
        tree(leaves(6))


def test_clipping_scales_to_the_limit_and_reports_the_norm_before():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert clip_by_norm(gradients, 1.0) == pytest.approx(5.0)
    assert torch.cat([g.flatten() for g in gradients]).norm().item() == pytest.approx(1.0)
    assert clip_by_norm(gradients, None) == pytest.approx(1.0)


def parameters() -> list[nn.Parameter]:
    """Of several shapes; the second is reached by every second micro-batch only, the last by none."""
    return [nn.Parameter(torch.zeros(shape)) for shape in ((1000,), (10, 7), (3,), (5, 5))]


def summed(workers: Workers, stop: object, bucket_bytes: int) -> list[str]:
    """The gradients of loss sums over 8 micro-batches, through backward passes."""
    reduction.BUCKET_BYTES = bucket_bytes
    own, weights = parameters(), leaves(PARTS)
    part = workers.part(PARTS)
    exact = ExactReduction(nn.Identity(), own, workers)
    for index in part:
        loss = (own[0] * weights[index]).sum() + (own[2] * weights[index][:3]).sum() * 3
        if index % 2 == 0:
            loss = loss + (own[1].flatten() * weights[index][:70] * -0.0).sum()
        exact.add(loss.backward, last=index == part[-1])
    result = exact.total()
    assert all(parameter.grad is None for parameter in own)
    exact.close()
    return [str(tensor.flatten().tolist()) for tensor in result]  # in which -0.0 is not 0.0


@pytest.mark.parametrize("bucket_bytes", [pytest.param(1, marks=pytest.mark.slow), 300, 1 << 20])
def test_backward_passes_of_any_number_of_workers_give_the_same_bits(tmp_path, bucket_bytes):
    wanted = summed(Workers(), None, bucket_bytes)
    assert wanted[0] == str(tree(leaves(PARTS)).tolist())
    assert wanted[1] == str([0.0] * 70), "adding the 0.0 of what a micro-batch does not reach makes 0.0 of -0.0"
    assert wanted[3] == str([0.0] * 25), "what no sample reaches has gradient 0"
    for count in (2, 4, 8):
        found = run_workers(summed, bucket_bytes, count=count, device="cpu", folder=tmp_path / "workers")
        assert found == wanted


MEMORY = """
import re, sys, torch
from pathlib import Path
from torch import nn
from glassworks.runtime.launch import run_workers
from glassworks.training.reduction import ExactReduction

SIZE, LAYERS, PARTS = 1 << 20, 24, 8  # 4 MiB a layer, 96 MiB of gradients

def memory(name):
    return int(re.search(rf"^{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1])

def peak(workers, stop):
    layers = [nn.Parameter(torch.zeros(SIZE)) for _ in range(LAYERS)]
    exact = ExactReduction(nn.Identity(), layers, workers)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again; getrusage's peak would be our parent's
    before = memory("VmRSS")
    part = workers.part(PARTS)
    for index in part:
        exact.add(sum((layer * 1.5).sum() for layer in layers).backward, last=index == part[-1])
    exact.total()
    return (memory("VmHWM") - before) * 1024 / (4 * SIZE * LAYERS)

if __name__ == "__main__":
    print(run_workers(peak, count=int(sys.argv[1]), device="cpu", folder=Path(sys.argv[2])))
"""


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_at_most_log_micro_batches_plus_two_buffers_of_the_gradients_size(tmp_path, workers):
    script = tmp_path / "memory.py"
    script.write_text(MEMORY)
    run = subprocess.run(
        [sys.executable, script, str(workers), tmp_path / "workers"],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},  # what is freed goes back at once
        capture_output=True,
        text=True,
        check=True,
    )
    assert 1 < float(run.stdout) <= 3 + 2


def test_the_thread_that_exchanges_gradients_uses_the_device_of_its_worker(monkeypatch):
    """CUDA's current device is a property of a thread, 0 at first."""
    used, device, layer = [], torch.device("cuda", 1), torch.nn.Linear(1, 1)
    monkeypatch.setattr("torch.cuda.set_device", used.append)
    reduction = ExactReduction(layer, list(layer.parameters()), Workers(rank=1, size=2, device=device))
    reduction.thread.submit(int).result()
    reduction.close()
    assert used == [device]
