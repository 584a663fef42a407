"""The linear cross-entropy beside the loss of all logits, `F.linear` and `F.cross_entropy`. Prints ratios of time and memory.

    python benchmarks/losses.py [--quick]

(a) Every position has a target: the time of a forward and a backward pass, in fp32 and under bf16 autocast, for the
    vocabularies of SmolLM2 (49,152) and of Qwen2.5 (151,936).
(b) A quarter of the positions has a target, as in a dialogue of which only the answers are learned. Ours skips the others.
(c) Peak memory of these passes in fp32, beyond the inputs and the gradients, which both sides need; each side in a fresh
    process, at 4,096 positions: two rows of 2,048 tokens. Freed tensors, which glibc likes to keep, are not in it
    (MALLOC_MMAP_THRESHOLD_).

One thread. Sides take turns, and who begins alternates; the median of the ratios of all rounds is printed, with their range,
and the same by CPU time, which other work on the machine disturbs less. A first round, which fills caches, is not counted;
its losses and gradients must be the same on both sides, up to rounding.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import torch
from torch import Tensor
from torch.nn import functional as F

from glassworks.models.losses import CHUNK_BYTES, IGNORED, linear_cross_entropy

VOCABULARIES = (49_152, 151_936)
POSITIONS, WIDTH = 1024, 576
MEMORY_POSITIONS = 4096
"""Those of (c): all logits need memory for each position, ours do not."""


class Cost(NamedTuple):
    """Seconds of a call."""

    wall: float
    cpu: float


class Inputs(NamedTuple):
    """Features [N, D] and weight [V, D], which need gradients, and targets [N]."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor


def make_inputs(positions: int, vocabulary: int, supervised: float = 1.0) -> Inputs:
    torch.manual_seed(0)
    hidden, weight = torch.randn(positions, WIDTH), torch.empty(vocabulary, WIDTH).normal_(std=0.05)
    targets = torch.randint(vocabulary, (positions,))
    targets[torch.rand(positions) >= supervised] = IGNORED
    return Inputs(hidden.requires_grad_(), weight.requires_grad_(), targets)


def ours(inputs: Inputs) -> Tensor:
    return linear_cross_entropy(*inputs).total


def full(inputs: Inputs) -> Tensor:
    logits = F.linear(inputs.hidden, inputs.weight)
    return F.cross_entropy(logits, inputs.targets, ignore_index=IGNORED, reduction="sum")


SIDES: dict[str, Callable[[Inputs], Tensor]] = {"full": full, "ours": ours}


def passes(side: str, inputs: Inputs, half: bool = False) -> float:
    """A forward and a backward pass; returns the loss and leaves the gradients."""
    inputs.hidden.grad = inputs.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = SIDES[side](inputs)
    loss.backward()
    return loss.item()


def cost_of(call: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def assert_same(inputs: Inputs, half: bool) -> str:
    """The difference of the sides. Raises `AssertionError` if it is larger than rounding."""
    losses, gradients = [], []
    for side in SIDES:
        losses.append(passes(side, inputs, half))
        gradients.append((inputs.hidden.grad, inputs.weight.grad))
    loss = abs(losses[1] / losses[0] - 1)
    gradient = max(
        ((one - other).abs().max() / other.abs().max()).item() for one, other in zip(*gradients, strict=True)
    )
    assert loss < (1e-4 if half else 1e-6), f"the losses of the two sides differ by {loss:.0e}"
    assert gradient < (2e-2 if half else 1e-5), f"the gradients of the two sides differ by {gradient:.0e}"
    return f"    parity: loss within {loss:.0e}, gradients within {gradient:.0e}"


def report(title: str, figure: str, goal: str, more: str) -> None:
    print(f"{title:66} {figure:>6}  goal {goal:7} {more}", flush=True)


def benchmark_time(part: str, inputs: Inputs, half: bool, goal: str, rounds: int) -> None:
    parity = assert_same(inputs, half)
    costs: dict[str, list[Cost]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in sorted(SIDES, reverse=bool(number % 2)):
            costs[side].append(cost_of(lambda side=side: passes(side, inputs, half)))
    pairs = list(zip(costs["ours"], costs["full"], strict=True))
    ratios = sorted(a.wall / b.wall for a, b in pairs)
    cpu = statistics.median(a.cpu / b.cpu for a, b in pairs)
    ms = {side: 1e3 * statistics.median(cost.wall for cost in some) for side, some in costs.items()}
    report(
        f"{part} {len(inputs.weight):,} tokens, {'bf16' if half else 'fp32'}: time, ours / all logits",
        f"{statistics.median(ratios):.2f} x",
        goal,
        f"({ratios[0]:.2f} … {ratios[-1]:.2f}, {rounds} rounds; by CPU time {cpu:.2f} x)  {ms['ours']:,.0f} vs {ms['full']:,.0f} ms",
    )
    print(parity, flush=True)


def peak_of(side: str, positions: int, vocabulary: int) -> int:
    """Peak resident bytes of a forward and a backward pass, beyond those of the inputs."""
    torch.set_num_threads(1)
    passes(side, make_inputs(8, 128))  # loads the libraries
    inputs = make_inputs(positions, vocabulary)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before = resident("VmRSS")
    passes(side, inputs)
    return resident("VmHWM") - before


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def in_process(side: str, positions: int, vocabulary: int) -> int:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_of, side, positions, vocabulary).result()


def benchmark_memory(positions: int) -> None:
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"  # for glibc in the processes to come
    for vocabulary in VOCABULARIES:
        peaks = {side: in_process(side, positions, vocabulary) for side in SIDES}
        gradients = 4 * (vocabulary + positions) * WIDTH
        ours, full = (peaks[side] - gradients for side in ("ours", "full"))
        report(
            f"(c) {vocabulary:,} tokens, fp32: extra memory, ours / all logits",
            f"1/{full / ours:.0f}",
            "<= 1/30",
            f"{ours / 1e6:,.0f} vs {full / 1e6:,.0f} MB; gradients {gradients / 1e6:,.0f} MB",
        )
        more = f"{ours / 1e6:,.0f} vs {CHUNK_BYTES / 1e6:,.0f} MB"
        report("    ours / bytes of a chunk", f"{ours / CHUNK_BYTES:.2f} x", "<= 1.10", more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few positions and rounds: a smoke test")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    positions, rounds = (256, 1) if quick else (POSITIONS, 5)
    print(f"CPU, one thread; {positions:,} positions of {WIDTH} features; torch {torch.__version__}")
    for vocabulary in VOCABULARIES:
        for half in (False, True):
            benchmark_time("(a)", make_inputs(positions, vocabulary), half, "<= 1.10", rounds)
    for vocabulary in VOCABULARIES:
        benchmark_time("(b)", make_inputs(positions, vocabulary, supervised=0.25), False, "-", rounds)
    if Path("/proc/self/clear_refs").exists():
        benchmark_memory(positions if quick else MEMORY_POSITIONS)
    else:
        print("(c) left out: this system does not tell peak memory since a moment of choice")


if __name__ == "__main__":
    main()
