"""Settings of the optimizer, the schedule, parameter groups and gradient clipping."""

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
    "AdamW8bit",
    "Adam",
    "Muon",
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


def warmup(given: int | None, steps: int) -> int:
    """Warm-up steps in a window of `steps` steps: those given, or the default."""
    return min(100, steps // 10) if given is None else given


class ParameterGroup(Settings):
    """Parameters selected by name, with their own learning rate, warm-up, weight decay and training window."""

    parameters: Annotated[list[str], Field(min_length=1)]
    """Patterns of parameter names, such as `encoder.*`; `*` also matches dots. A parameter belongs to the first group that matches."""
    learning_rate: Positive | None = None
    """Peak learning rate; null inherits `optimization.learning_rate`."""
    warmup_steps: Steps | None = None
    """Warm-up steps, counted from `train_from`; null inherits `optimization.warmup_steps`."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Weight decay of the matrices; null inherits `optimization.weight_decay`."""
    frozen: bool = False
    """Never train this group."""
    train_from: Steps = 0
    """First step (from 0) that trains this group. The group is frozen before this step, and its schedule begins here."""
    train_until: Count | None = None
    """First step that no longer trains this group; null trains to the end. The schedule of the group ends here."""

    @model_validator(mode="after")
    def _window(self) -> "ParameterGroup":
        if self.train_until is not None and self.train_until <= self.train_from:
            raise ValueError(f"train_until {self.train_until} must be later than train_from {self.train_from}")
        if self.frozen and (self.train_from or self.train_until is not None):
            raise ValueError("frozen: true leaves no step for train_from or train_until; remove one or the other")
        return self


class Optimization(Settings):
    """Optimizer, gradient clipping, and a schedule that is a function of the step."""

    optimizer: Optimizer = "AdamW"
    """A first-order optimizer of torch.optim by name; `Muon` is our own, exact for any number of workers. It takes AdamW steps for embeddings, the output
    layer and all that is no matrix, at `options.vector_rate` times the learning rate. `AdamW8bit` is that of bitsandbytes (extra `quantisation`): the
    moments of a parameter of at least `options.min_8bit_size` elements (4,096) are held in 8 bit.
    """
    options: dict[str, Any] = Field(default={})
    """Further arguments of the optimizer, such as `{momentum: 0.9, nesterov: true}` for SGD."""
    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    warmup_steps: Steps | None = None
    """Warm-up steps from near 0 to the peak; null takes a tenth of the run, 100 steps at most. Warm-up is linear; for one_cycle it is half a cosine."""
    schedule: Literal["constant", "cosine", "one_cycle", "wsd"] = "cosine"
    """Learning rate after warm-up. `constant` stays at the peak. `cosine` and `one_cycle` decay along half a cosine; the warm-up of `one_cycle` is a
    cosine, too. `wsd` (warm-up, stable, decay) stays at the peak and decays linearly over the last `decay_steps`."""
    floor: Share = 0.1
    """Learning rate at the last step, as a share of the peak (all schedules but constant)."""
    start: Share = 0.04
    """Learning rate at the first step, as a share of the peak (one_cycle)."""
    decay_steps: Steps | None = None
    """Steps of the final decay (wsd); null uses a fifth of the run."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay. Not applied to norms, biases, positions, gates, logit scales or other 1-D parameters."""
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.98)
    """Decay rates of the two moments, for optimizers that have them (Adam and its variants)."""
    eps: Positive = 1e-8
    """Epsilon of the optimizer, if the optimizer has a single one."""
    clip_norm: Positive | None = 1.0
    """Maximum global gradient norm; null disables clipping."""
    groups: dict[GroupName, ParameterGroup] = Field(default={})
    """Named parameter groups with their own rate, warm-up, decay and training window. Parameters in no group use the settings above."""

    def fault(self, steps: int) -> str | None:
        """One line about a setting that does nothing, or not what it says, in a run of `steps` steps; None for a good schedule."""
        whole = warmup(self.warmup_steps, steps)
        if whole > steps:
            return (
                f"optimization.warmup_steps: {whole:,} is longer than the run of {steps:,} steps, "
                f"which would end below the learning rate; use {steps // 10} or another number up to {steps:,}"
            )
        if self.schedule == "wsd" and self.decay_steps and whole + self.decay_steps > steps:
            return (
                f"optimization.decay_steps: {self.decay_steps:,} and {whole:,} warm-up steps are more than "
                f"the run of {steps:,} steps; use at most {steps - whole:,}"
            )
        for name, group in self.groups.items():
            where = f"optimization.groups.{name}"
            if group.train_from >= steps:
                return f"{where}.train_from: {group.train_from:,} is beyond the end of the run of {steps:,} steps; use `frozen: true` or a smaller number"
            if group.train_until is not None and group.train_until > steps:
                return f"{where}.train_until: {group.train_until:,} is beyond the end of the run of {steps:,} steps; remove it or use a smaller number"
            window = (group.train_until or steps) - group.train_from
            own = warmup(self.warmup_steps if group.warmup_steps is None else group.warmup_steps, window)
            if not group.frozen and own > window:
                inherited = " (of optimization.warmup_steps)" if group.warmup_steps is None else ""
                return f"{where}.warmup_steps: {own:,}{inherited} is longer than the {window:,} steps that train the group; use {window // 10} or another number up to {window:,}"
        return None

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
