"""Muon (Jordan et al., 2024): momentum whose matrices are orthogonalised. Everything that is no matrix takes an AdamW step.

Every matrix is orthogonalised whole, in float32, by one rank, and its bits are sent to the others. So the result does not depend on the number of ranks.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.optimizer import ParamsT

from glassworks.training.workers import Workers

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration. They bring singular values to about 1, between 0.7 and 1.2, not to 1 exactly."""


class Muon(torch.optim.Optimizer):
    """Groups with `orthogonal` hold matrices. The others take AdamW steps at `vector_rate` times their learning rate."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 5e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        iterations: int = 5,
        vector_rate: float = 0.4,
    ) -> None:
        for name, value in (("momentum", momentum), ("vector_rate", vector_rate)):
            if not 0 <= value <= (1 if name == "momentum" else float("inf")):
                raise ValueError(f"invalid {name}: {value}")
        options = {"momentum": momentum, "iterations": iterations, "vector_rate": vector_rate, "orthogonal": False}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **options})
        self.workers = Workers()
        """The ranks that share the matrices. All of them have the same gradients."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        matrices: list[tuple[Tensor, dict[str, Any]]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["orthogonal"]:
                    matrices.append((parameter, group))
                else:
                    self._adamw(parameter, group)
        for (parameter, group), update in zip(matrices, self._updates(matrices), strict=True):
            rows, columns = parameter.shape
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _updates(self, matrices: list[tuple[Tensor, dict[str, Any]]]) -> Iterator[Tensor]:
        """The orthogonalised momentum of every matrix."""
        owners = self._owners([parameter for parameter, _ in matrices])
        own: list[Tensor] = []
        for (parameter, group), owner in zip(matrices, owners, strict=True):
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(gradient)
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            if owner == self.workers.rank:
                update = gradient.lerp(state["momentum"], group["momentum"])
                own.append(orthogonalise(update, group["iterations"]))
        if self.workers.size == 1 or not matrices:
            yield from own
            return
        sizes = [0] * self.workers.size
        for (parameter, _), owner in zip(matrices, owners, strict=True):
            sizes[owner] += parameter.numel()
        none = matrices[0][0].new_zeros(0, dtype=torch.float32)
        found = torch.cat([none, *(update.flatten() for update in own)])
        sent = F.pad(found, (0, max(sizes) - len(found)))
        parts = list(self.workers.gather(sent).split(len(sent)))
        for (parameter, _), owner in zip(matrices, owners, strict=True):
            update, parts[owner] = parts[owner].split([parameter.numel(), len(parts[owner]) - parameter.numel()])
            yield update.view_as(parameter).to(parameter.dtype)

    def _owners(self, matrices: list[Tensor]) -> list[int]:
        """The rank of every matrix, so that the work is about equal: the largest first, each to the rank with the least so far."""
        costs = [matrix.numel() * min(matrix.shape) for matrix in matrices]
        owners, work = [0] * len(costs), [0] * self.workers.size
        for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
            owners[place] = work.index(min(work))
            work[owners[place]] += costs[place]
        return owners

    def _adamw(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient, (first, second) = self.state[parameter], parameter.grad, group["betas"]
        assert gradient is not None
        if not state:
            state.update(step=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        rate = group["lr"] * group["vector_rate"]
        root = (state["square"] / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.addcdiv_(state["mean"], root, value=-rate / (1 - first ** state["step"]))


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearly orthogonal matrix [M, N] with the singular vectors of `matrix`, by Newton-Schulz iterations in float32."""
    a, b, c = COEFFICIENTS
    x = matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        product = x @ x.T
        x = a * x + (b * product + c * (product @ product)) @ x
    return (x.T if tall else x).to(matrix.dtype)
