"""Small objectives that the engine's tests train: one whose loss is a sum over targets, one whose loss couples the batch, both with dropout."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.config.optimization import Optimization
from glassworks.config.training import Execution, Training
from glassworks.training.loop import Run
from glassworks.training.task import Loss
from glassworks.training.validation import HeldOut

SIDE, CLASSES = 6, 3


@dataclass(frozen=True)
class Pairs:
    """Two views of the same hidden vectors."""

    keys: list[str]
    x: Tensor
    y: Tensor


def pairs(seed: int, first: int, count: int) -> Pairs:
    """Samples first … first + count - 1, each a function of its number alone."""
    rows = [torch.Generator().manual_seed(1_000_003 * seed + number) for number in range(first, first + count)]
    hidden = torch.stack([torch.randn(SIDE, generator=row) for row in rows])
    noise = torch.stack([torch.randn(2, SIDE, generator=row) for row in rows]) * 0.3
    keys = [str(number) for number in range(first, first + count)]
    return Pairs(keys, hidden + noise[:, 0], hidden.roll(1, dims=1).tanh() + noise[:, 1])


class Tower(nn.Module):
    """A residual block between two linear maps, with dropout."""

    def __init__(self, out: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(SIDE, 32)
        self.block = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Dropout(dropout))
        self.out = nn.Linear(32, out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        return self.out(x + self.block(x))


class Regression:
    """Predict y from x; a target that is not positive is padding, so micro-batches differ in weight."""

    metrics = ("loss",)
    passes = 1

    def __init__(self, dropout: float = 0.2) -> None:
        self.dropout = dropout

    def build(self) -> nn.Module:
        return _blocks(Tower(SIDE, self.dropout))

    def loss(self, model: Any, batch: Pairs, carry: tuple[Tensor, ...] = ()) -> Loss:
        real = batch.y > 0
        return Loss(F.mse_loss(model(batch.x)[real].float(), batch.y[real], reduction="sum"), int(real.sum()))

    def validate(self, model: Any, batch: Pairs) -> dict[str, tuple[float, float]]:
        loss = self.loss(model, batch)
        return {"loss": (loss.total.item(), loss.weight)}


class Refinement(Regression):
    """Predict y in three passes, each from the answer of the one before (deep supervision), with the parts of the loss by sign of the target."""

    metrics = ("loss", "loss.positive", "loss.negative")
    passes = 3

    def loss(self, model: Any, batch: Pairs, carry: tuple[Tensor, ...] = ()) -> Loss:
        before = carry[0] if carry else torch.zeros_like(batch.x)
        assert not before.requires_grad
        answer = before + model(batch.x - before).float()
        losses = F.mse_loss(answer, batch.y, reduction="none")
        parts = {
            name: (losses[chosen].detach().sum(), int(chosen.sum()))
            for name, chosen in (("positive", batch.y > 0), ("negative", batch.y <= 0))
        }
        return Loss(losses.sum(), losses.numel(), parts, (answer,))

    def validate(self, model: Any, batch: Pairs) -> dict[str, tuple[float, float]]:
        carry: tuple[Tensor, ...] = ()
        for _ in range(self.passes):
            loss = self.loss(model, batch, carry)
            carry = loss.carry
        parts = {f"loss.{name}": (part.item(), weight) for name, (part, weight) in loss.parts.items()}
        return {"loss": (loss.total.item(), loss.weight), **parts}


class TwoTowers(nn.Module):
    """Unit vectors of both views, and a learned scale."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.left, self.right = Tower(8, dropout), Tower(8, dropout)
        self.scale = nn.Parameter(torch.tensor([math.log(10.0)]))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.left(x), dim=-1), F.normalize(self.right(y), dim=-1)


class Contrastive:
    """CLIP's symmetric cross-entropy (Radford et al., 2021) over the global batch."""

    metrics = ("loss",)
    passes = 1

    def __init__(self, dropout: float = 0.2) -> None:
        self.dropout = dropout

    def build(self) -> nn.Module:
        return _blocks(TwoTowers(self.dropout))

    def embed(self, model: Any, batch: Pairs) -> dict[str, Tensor]:
        left, right = model(batch.x, batch.y)
        return {"left": left, "right": right}

    def coupled_loss(self, model: Any, embeddings: dict[str, Tensor]) -> Loss:
        logits = model.scale.exp() * embeddings["left"] @ embeddings["right"].T
        own = torch.arange(len(logits), device=logits.device)
        both = F.cross_entropy(logits, own, reduction="sum") + F.cross_entropy(logits.T, own, reduction="sum")
        return Loss(both / 2, len(logits))

    def validate(self, model: Any, batch: Pairs) -> dict[str, tuple[float, float]]:
        loss = self.coupled_loss(model, self.embed(model, batch))
        return {"loss": (loss.total.item(), loss.weight)}


def a_run(folder: Path, task: Any, *, poison: int | None = None, **settings: Any) -> Run:
    """A run of `task` over made-up data; `settings` are keys of `optimization`, `training` and `execution`, `poison` a sample that is not finite."""
    training = {"steps": 6, "batch_size": 16, "micro_batches": 8, "validate_every": 3, "digest_every": 2}
    sections = {"training": training, "execution": {"checkpoint_every": 2}, "optimization": {"warmup_steps": 2}}
    for name, value in settings.items():
        owner = next(
            section
            for section, model in (("training", Training), ("execution", Execution), ("optimization", Optimization))
            if name in model.model_fields
        )
        sections[owner][name] = value
    config = Training.model_validate(training)
    size = config.batch_size // config.micro_batches

    def batches(first: int, part: range) -> Iterator[list[Pairs]]:
        for step in range(first, config.steps):
            found = [pairs(0, step * config.batch_size + index * size, size) for index in part]
            for batch in found:
                if str(poison) in batch.keys:
                    batch.x[batch.keys.index(str(poison))] = math.inf
            yield found

    def held_out(part: range) -> Iterator[Pairs]:
        for index in part:
            yield pairs(1, index * 4, 4)

    return Run(
        name="a run",
        folder=folder,
        task=task,
        batches=batches,
        held_out=HeldOut(3, held_out),
        seed=7,
        optimization=Optimization.model_validate(sections["optimization"]),
        training=config,
        execution=Execution.model_validate(sections["execution"]),
    )


def _blocks(model: nn.Module) -> nn.Module:
    """What the engine asks of a model: its blocks and its shards."""
    towers = [module for module in model.modules() if isinstance(module, Tower)]
    model.blocks = lambda: iter([tower.block for tower in towers])  # type: ignore[assignment]
    model.shards = lambda: iter([tower.block for tower in towers])  # type: ignore[assignment]
    return model
