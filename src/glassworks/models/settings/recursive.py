"""The recursion of the Tiny Recursive Model, and its shape for boards."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings
from glassworks.models.settings.numbers import Count, Positive


class Recursion(Settings):
    """One network that refines a latent state z and an answer y again and again."""

    inner_recursions: Count = 2
    """n: updates of the latent state before each update of the answer."""
    outer_recursions: Count = 3
    """T: rounds of n + 1 updates in one supervision step."""
    supervision_steps: Count = 2
    """N_sup: supervision steps. Each has a loss in training, and continues from the detached states of the one before. 1: no deep supervision."""
    gradient: Literal["all_rounds", "last_round", "one_step"] = "last_round"
    """`last_round` back-propagates through all n + 1 updates of the last round. `one_step` through the last update of the latent state and that of the answer
    (HRM). `all_rounds` through all T (n + 1) updates of a supervision step.
    """

    @property
    def applications(self) -> int:
        """How often all supervision steps together apply the network."""
        return self.supervision_steps * self.outer_recursions * (self.inner_recursions + 1)


class Recursive(Recursion):
    """One small network that refines a latent state and an answer again and again."""

    width: Count = 64
    """Dimension of the states at every position."""
    layers: Count = 2
    """Layers of the network."""
    mixer: Literal["attention", "mlp"] = "attention"
    """How positions exchange information. `attention`: all positions attend to each other. `mlp`: a SwiGLU part over the positions."""
    positions: Literal["rotary", "learned"] = "rotary"
    """How attention knows positions: by rotation of queries and keys, or by a learned vector for each position of the question. `mlp` has neither."""
    heads: Count = 4
    """Attention heads."""
    inner: Annotated[int, Field(ge=1)] | None = None
    """Inner features of the SwiGLU part; null takes 8/3 of the width, rounded up to a multiple of 16."""
    prefix: Annotated[int, Field(ge=0)] = 1
    """Learned vectors before the cells. The halting head reads the first position."""
    supervision_steps: Count = 16
    """N_sup: supervision steps of an answer. Training updates the weights after each one, which continues from the detached states of the one before. 1: no
    deep supervision.
    """
    theta: Positive = 10000.0
    """Base of the rotary frequencies."""

    @model_validator(mode="after")
    def _divides(self) -> "Recursive":
        if self.mixer == "attention" and self.width % (2 * self.heads):
            raise ValueError(
                f"heads: {self.heads} heads do not cut width {self.width} into parts of an even size, which rotary positions need"
            )
        return self

    @property
    def inner_width(self) -> int:
        """Inner features of the SwiGLU part over the width."""
        return self.inner or rounded_up(8 * self.width / 3)


def rounded_up(size: float, multiple: int = 16) -> int:
    """The smallest multiple that is not below `size`."""
    return -int(-size // multiple) * multiple
