"""What a device refuses, found without one: trainings and evaluations on the emulated device of emulation.py, in a process of its own."""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from glassworks.generation.sampling import draw
from glassworks.generation.settings import Decoding
from glassworks.pipeline.execution import Context
from glassworks.runtime import fork_server
from glassworks.runtime.signals import StopRequest
from glassworks.stages import evaluate
from glassworks.training.loop import METRICS, fit
from glassworks.training.metrics_log import read_metrics
from glassworks.training.workers import CPU, Workers

from .emulation import emulated
from .runs import QUICK, RUNS, SLOW, maker


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Executor]:
    fork_server.start("glassworks.stages.train")
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        yield pool


def on_the_device(has_float64: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(workers, *arguments)` on the emulated device."""
    torch.set_num_threads(1)
    with emulated(has_float64) as device, patch.object(Workers, "sums", device if has_float64 else CPU):
        return function(Workers(device=device), *arguments)


def trained(workers: Workers, make: Callable[..., Any], folder: Path) -> list[dict[str, Any]]:
    fit(make(folder=folder), workers, StopRequest())
    return read_metrics(folder / METRICS)


def evaluated(workers: Workers, context: Context) -> tuple[dict[str, Any], str]:
    found = evaluate._evaluate(workers, StopRequest(), context)
    return found, (context.output / "metrics.json").read_text()


def close(one: Any, other: Any) -> bool:
    """Whether two JSON values differ in the last digits of numbers alone."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return bool(one == (pytest.approx(other, rel=1e-3, abs=1e-5) if isinstance(other, float) else other))


@pytest.mark.parametrize(
    ("name", "has_float64"),
    [
        *(pytest.param(name, True, id=name, marks=[] if name in QUICK else SLOW) for name in RUNS),
        *(pytest.param(name, False, id=f"{name}-no-float64", marks=[] if name in QUICK else SLOW) for name in RUNS),
    ],
)
def test_a_training_leaves_nothing_on_the_cpu_and_has_its_losses(name, has_float64, tmp_path, request, elsewhere):
    size = {"steps": 2, "batch_size": 4, "micro_batches": 2, "validate_every": 2}
    make = maker(name, tmp_path, "fp32", request, **size)
    one = trained(Workers(), make, tmp_path / "cpu")
    other = elsewhere.submit(on_the_device, has_float64, trained, make, tmp_path / "device").result()
    assert len(one) == 3 and close(one, other)


@pytest.mark.parametrize(
    ("fixture", "train", "stage"),
    [
        pytest.param("seeing_project", None, "evaluate-stored-questions", id="questions"),
        pytest.param("aligned_project", "train-stored", "evaluate-stored-retrieval", id="retrieval"),
        pytest.param("boards_project", "train-solver", "evaluate-solver-boards", id="boards"),
        pytest.param("fused_project", None, "evaluate-small-transcription", id="transcription", marks=SLOW),
    ],
)
def test_an_evaluation_leaves_nothing_on_the_cpu_and_has_its_metrics(
    fixture, train, stage, tmp_path, request, elsewhere
):
    project = request.getfixturevalue(fixture).copy(tmp_path / "project")
    if train:
        project.run(train)
    one = evaluated(Workers(), project.context(stage, tmp_path / "cpu"))
    context = project.context(stage, tmp_path / "device")
    other = elsewhere.submit(on_the_device, False, evaluated, context).result()
    assert one[0] == other[0] and close(*(json.loads(text) for _, text in (one, other)))


def sampled(workers: Workers) -> list[int]:
    logits = torch.arange(12.0).view(3, 4).to(workers.device)
    uniform = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    return draw(logits, uniform, Decoding(temperature=1.0, top_p=0.9)).tolist()


def test_tokens_are_sampled_without_a_cumulative_sum_on_the_device(elsewhere):
    assert elsewhere.submit(on_the_device, False, sampled).result() == sampled(Workers())


def refused(workers: Workers, fault: str) -> None:
    here = torch.ones(2, 3).to(workers.device)
    if fault == "two devices":
        here + torch.ones(2, 3)
    elif fault == "deterministic":
        here.cumsum(-1)
    else:
        here.double()


@pytest.mark.parametrize("fault", ["two devices", "deterministic", "float64"])
def test_the_emulated_device_refuses_what_a_gpu_refuses(fault, elsewhere):
    with pytest.raises((RuntimeError, TypeError), match=r"on the device and on the CPU|deterministic CUDA|no float64"):
        elsewhere.submit(on_the_device, False, refused, fault).result()
