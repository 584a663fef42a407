"""Muon (Jordan et al., 2024): momentum whose matrices are orthogonalised. Everything that is no matrix takes an AdamW step.

Every rank computes whole matrices in float32, so the result does not depend on the number of ranks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

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

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["orthogonal"]:
                    self._muon(parameter, group)
                else:
                    self._adamw(parameter, group)

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = orthogonalise(gradient.lerp(state["momentum"], group["momentum"]), group["iterations"])
        rows, columns = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

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
