"""How weights are changed: optimizer, schedule, parameter groups, clipping."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings

Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
GroupName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Optimizer = Literal[
    "AdamW",
    "Adam",
    "Adafactor",
    "Adadelta",
    "Adagrad",
    "Adamax",
    "ASGD",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
]


class ParameterGroup(Settings):
    """A component of the model, found by the names of its parameters, with its own rate and its own time."""

    parameters: Annotated[list[str], Field(min_length=1)]
    """Patterns of parameter names such as `encoder.*` (`*` matches any characters, dots included); a parameter belongs to the first group that matches."""
    learning_rate: Positive | None = None
    """Peak learning rate; null takes that of `optimization`."""
    warmup_steps: Steps | None = None
    """Steps of warm-up, counted from `train_from`; null takes that of `optimization`."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Weight decay of the matrices; null takes that of `optimization`."""
    frozen: bool = False
    """Never train this group."""
    train_from: Steps = 0
    """First step (from 0) that trains this group; it is frozen before, and its schedule begins here."""
    train_until: Count | None = None
    """First step that no longer trains this group; null trains to the end. Its schedule ends here."""

    @model_validator(mode="after")
    def _window(self) -> "ParameterGroup":
        if self.train_until is not None and self.train_until <= self.train_from:
            raise ValueError(f"train_until {self.train_until} must be later than train_from {self.train_from}")
        if self.frozen and (self.train_from or self.train_until is not None):
            raise ValueError("frozen: true leaves no step for train_from or train_until; remove one or the other")
        return self


class Optimization(Settings):
    """An optimizer, gradient clipping, and a schedule that is a function of the step."""

    optimizer: Optimizer = "AdamW"
    """Any first-order optimizer of torch.optim, by its name."""
    options: dict[str, Any] = Field(default={})
    """Further arguments of the optimizer, such as `{momentum: 0.9, nesterov: true}` for SGD."""
    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    warmup_steps: Steps = 100
    """Steps of warm-up from near 0 to the peak (linear; half a cosine for one_cycle)."""
    schedule: Literal["constant", "cosine", "one_cycle", "wsd"] = "cosine"
    """After warm-up: stay at the peak; fall along half a cosine (cosine, and one_cycle, whose warm-up is a cosine too); or stay and fall linearly over the last `decay_steps` (wsd: warm-up, stable, decay)."""
    floor: Share = 0.1
    """Learning rate at the last step, as a share of the peak (all but constant)."""
    start: Share = 0.04
    """Learning rate at the first step, as a share of the peak (one_cycle)."""
    decay_steps: Steps | None = None
    """Steps of the final decay (wsd); null is a fifth of the run."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay; never on norms, biases, positions, gates, logit scales or other 1-D parameters."""
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.98)
    """Decay rates of the two moments, for optimizers that have them (Adam and its kin)."""
    eps: Positive = 1e-8
    """The optimizer's epsilon, where it has a single one."""
    clip_norm: Positive | None = 1.0
    """Largest global norm of the gradient; null never clips."""
    groups: dict[GroupName, ParameterGroup] = Field(default={})
    """Named parameter groups with their own rate, warm-up, decay and training window. Parameters in no group use the settings above."""

    @model_validator(mode="after")
    def _names(self) -> "Optimization":
        if "default" in self.groups:
            raise ValueError("groups.default: 'default' is the name of what no group matches; choose another")
        taken = {"lr": "learning_rate", "weight_decay": "weight_decay", "betas": "betas", "eps": "eps"}
        for name in self.options:
            if name in taken:
                raise ValueError(f"options.{name}: write it as optimization.{taken[name]}")
            if name in ("foreach", "fused", "capturable", "differentiable", "maximize"):
                raise ValueError(f"options.{name}: this is chosen by the training engine; remove it")
        return self
