"""Settings of training (steps, global batch, precision, reduction, selection) and of its execution."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings, nearest

Count = Annotated[int, Field(ge=1)]


class Selection(Settings):
    """Selection of the published weights and early stopping, by a validation metric."""

    publish: Literal["last", "best"] = "last"
    """Publish the weights after the last step, or those with the best validation."""
    metric: str = "validation_loss"
    """Validation metric to compare."""
    mode: Literal["min", "max"] = "min"
    """Whether a lower (`min`) or a higher (`max`) metric is better."""
    patience: Count | None = None
    """Consecutive validations without improvement before training stops; null disables early stopping."""

    @property
    def needs_validation(self) -> str | None:
        """The key that has no effect without validation data."""
        return "publish" if self.publish == "best" else "patience" if self.patience is not None else None


def check_metric(selection: Selection, metrics: Sequence[str], held_out: Sequence[str]) -> None:
    """Raise `ValueError` for a metric that the task does not validate. `held_out` names the held-out data sets."""
    sets = [f".{name}" for name in held_out] if len(held_out) > 1 else []
    known = [f"validation_{metric}{name}" for metric in metrics for name in ("", *sets)]
    if selection.metric not in known:
        raise ValueError(
            f"training.selection.metric: this task has no {selection.metric!r}{nearest(selection.metric, known)}"
        )


class Training(Settings):
    """Steps, global batch, precision, reduction, validation and selection. All of them affect the bytes of the model."""

    steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps. Give either `steps` or `passes`."""
    passes: Annotated[float | None, Field(gt=0, le=100_000, exclude_if=lambda passes: passes is None)] = None
    """Passes over the training rows. The steps then follow the amount of data: 20 passes over 180 images in batches of 16 are 225 steps."""
    batch_size: Count = 64
    """Global batch size: samples in one step, over all workers."""
    micro_batches: Count = 4
    """Micro-batches per global batch, a power of two. Each is one forward and backward pass, and bounds the number of workers."""
    shuffle_window: Count = 4
    """Number of shards whose samples are shuffled together. The order of the shards is shuffled, too."""
    reduction: Literal["exact", "ddp", "fsdp2"] = "exact"
    """Gradient reduction. `exact` adds in a fixed tree: the same bytes for any number of workers. `ddp` and `fsdp2` are torch's: the same bytes only
    for the same number of workers."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward and backward pass; weights stay fp32. bf16 and fp16 use autocast; fp16 adds loss scaling."""
    compile: bool = False
    """Compile the model with torch.compile. Requires a C++ compiler, or Triton on a GPU. Batches are padded to one length."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights. The average is validated and published instead of the weights; null disables it."""
    validate_every: Annotated[int, Field(ge=0)] = 200
    """Steps between validations. 0 validates once per pass, which is the default with `passes`."""
    selection: Selection = Selection()
    """Selection of the published weights and early stopping."""
    digest_every: Count = 100
    """Steps between digests of every trained parameter in digests.jsonl. `glassworks compare` uses them to find where two runs diverge."""

    @model_validator(mode="before")
    @classmethod
    def _once_per_pass(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("passes") is not None:
            return {"validate_every": 0, **value}
        return value

    def over(self, rows: int) -> "Training":
        """These settings for a number of training rows: `steps` and `validate_every` in steps."""
        steps = self.steps or math.ceil((self.passes or 0) * rows / self.batch_size)
        every = self.validate_every or min(steps, math.ceil(rows / self.batch_size))
        return self.model_copy(update={"steps": steps, "validate_every": every})

    @model_validator(mode="after")
    def _cuts(self) -> "Training":
        if bool(self.steps) == (self.passes is not None):
            raise ValueError("give either `steps`, or `passes` over the training data")
        if self.micro_batches & (self.micro_batches - 1):
            below = 1 << (self.micro_batches.bit_length() - 1)
            raise ValueError(f"micro_batches {self.micro_batches} is not a power of two; use {below} or {below * 2}")
        if self.batch_size % self.micro_batches:
            raise ValueError(f"micro_batches {self.micro_batches} does not divide batch_size {self.batch_size}")
        if self.reduction == "fsdp2" and self.precision == "fp16":
            raise ValueError("precision: fp16 does not go with reduction: fsdp2; use bf16, ddp or exact")
        if self.reduction != "exact" and self.compile:
            raise ValueError(f"compile: true does not go with reduction: {self.reduction}; use exact")
        return self


class Execution(Settings):
    """Execution of a training run. These settings do not affect the bytes of the model; changing them makes nothing stale."""

    checkpoint_every: Count = 200
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Number of most recent checkpoints kept during the run. The best checkpoint is kept in addition."""
    loader_workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Data loading processes per training worker."""
    nodes: Count = 1
    """Nodes of the run when it is submitted to SLURM, a power of two. Elsewhere the run uses one node."""
    workers_per_node: Count | None = None
    """Maximum training processes per node, a power of two; null uses all granted cores or free devices."""
    pack_jobs: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Parallel jobs that tokenize texts and messages for packed rows. Does not affect the bytes of the rows."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of transformer blocks and recompute the rest in the backward pass: less memory, more time, the same bits."""
    loggers: list[Literal["tensorboard", "wandb"]] = Field(default=[])
    """Loggers in addition to metrics.jsonl: TensorBoard (logs/tensorboard/) and Weights & Biases (logs/wandb/ if WANDB_MODE=offline)."""

    @model_validator(mode="after")
    def _powers_of_two(self) -> "Execution":
        for name in ("nodes", "workers_per_node"):
            if (number := getattr(self, name)) and number & (number - 1):
                raise ValueError(f"{name} {number} is not a power of two")
        return self
