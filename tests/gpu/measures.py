"""The loss of a run on a device, and its gradient, without dropout and before any step."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from glassworks.training.determinism import make_deterministic
from glassworks.training.loop import Run, make_trainer
from glassworks.training.objective import to_device
from glassworks.training.task import CoupledTask
from glassworks.training.workers import Workers

LOSS = {"fp32": 1e-5, "bf16": 2e-2}
"""Largest relative difference between the losses of two devices."""
GRADIENT = {"fp32": 1e-3, "bf16": 1e-1}
"""Largest length of the difference between two gradients, relative to that of the gradient."""


class Measured(NamedTuple):
    loss: float
    gradient: Tensor
    """[N] of all trained parameters, on the CPU."""


def measure(run: Run[Any, Any], workers: Workers) -> Measured:
    """The loss of the first micro-batch with the initial weights, and its gradient."""
    make_deterministic()
    trainer = make_trainer(run, workers)
    trainer.groups.prepare(0)
    batch = to_device(next(iter(run.batches(0, range(1))))[0], workers.device)
    trainer.model.eval()
    with trainer.precision.autocast():
        found = trainer.objective(batch)
        if isinstance(run.task, CoupledTask):
            found = run.task.coupled_loss(trainer.model, found)
    found.total.backward()
    parameters = trainer.groups.trained(0)
    parts = [p.grad.flatten().cpu() for p in parameters if p.grad is not None]
    return Measured(found.total.item() / found.weight, torch.cat(parts))


def difference(one: Tensor, other: Tensor) -> float:
    """|one - other| / |other|"""
    return ((one - other).norm() / other.norm()).item()
