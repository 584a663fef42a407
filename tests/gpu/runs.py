"""The runs that are trained on every device: one or more for each kind of task, with the small models of other tests."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from glassworks.pipeline.execution import Context
from glassworks.stages.train import describe
from glassworks.training.loop import Run

from ..tasks import test_puzzles as puzzles
from ..tasks import test_vision_language_stages as vision_language
from ..training.pictures import die, picture_run

PICTURES = ("captioner", "contrastive", "language", "adapter", "alignment", "fusion", "instruction")
STAGES = {
    "vision_language": ("seeing_project", vision_language, "stored"),
    "puzzles": ("boards_project", puzzles, "solver"),
}
"""The fixture of a project, the module with its configuration, and the experiment."""
RUNS = (*PICTURES, *STAGES)
GPU, SLOW = pytest.mark.gpu, pytest.mark.slow
QUICK = ("alignment", "puzzles")
"""The runs that `make test` trains on the CPU, where other tests train the others."""


def cases(*names: str) -> list[Any]:
    """Every run on every device: name, device and precision."""
    found = [(name, *on) for name in names for on in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16"))]
    return [pytest.param(*case, id="-".join(case), marks=_marks(*case)) for case in found]


def _marks(name: str, device: str, precision: str) -> list[pytest.MarkDecorator]:
    return [GPU] if device == "cuda" else [SLOW] * (name not in QUICK)


SIZE = {"steps": 6, "batch_size": 8, "micro_batches": 4, "validate_every": 3}
"""Small, with a micro-batch for each of four workers."""
Maker = Callable[..., Run[Any, Any]]


def maker(name: str, folder: Path, precision: str, request: pytest.FixtureRequest, **training: Any) -> Maker:
    """Makes the run `name` in a folder: make(folder=…, killed_at=…, rank=…). `training` are further keys of that section."""
    training = SIZE | training
    if name in PICTURES:
        shards = request.getfixturevalue("inputs")
        return partial(picture_run, shards=shards, task=name, precision=precision, loader_workers=0, **training)
    fixture, module, experiment = STAGES[name]
    project = request.getfixturevalue(fixture).copy(folder / "project")
    settings = module.EXPERIMENT
    changed = {**settings, "training": {**settings["training"], "precision": precision, **training}}
    project.configure(module.PARAMS, **{experiment: changed})
    return partial(described, context=project.context(f"train-{experiment}", folder / "context"))


def described(context: Context, folder: Path, killed_at: int | None = None, rank: int = 0) -> Run[Any, Any]:
    """The run of a stage in `folder`; with `killed_at`, the worker `rank` kills itself after so many steps."""
    folder.mkdir(parents=True, exist_ok=True)
    return replace(describe(replace(context, work=folder)), after_step=partial(die, killed_at, rank))


def counts(device: str) -> list[int]:
    """The numbers of workers for which this machine has devices."""
    return [count for count in (1, 2, 4) if count <= torch.cuda.device_count()] if device == "cuda" else [1]


def on(device: str, params: dict[str, Any]) -> dict[str, Any]:
    """params.yaml with a device."""
    return {**params, "determinism": {"device": device}}
