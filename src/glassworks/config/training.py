"""How a model is trained: the global batch, the optimizer, the schedule, and how it is carried out."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Optimization(Settings):
    """AdamW, gradient clipping and a schedule that is a function of the step."""

    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps of linear warm-up from 0 to the peak."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After warm-up: stay at the peak, or fall to `floor` along half a cosine."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the last step, as a share of the peak (cosine)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Decoupled weight decay; never on norms, biases, embeddings' positions, gates or other 1-D parameters."""
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.98)
    """AdamW's decay rates of the two moments."""
    eps: Positive = 1e-8
    """AdamW's epsilon."""
    clip_norm: Positive | None = 1.0
    """Largest global norm of the gradient; null never clips."""


class Training(Settings):
    """The run: how many steps of which global batch."""

    steps: Count
    """Optimizer steps."""
    batch_size: Count = 64
    """Samples of one step over all workers."""
    micro_batches: Count = 4
    """Parts the global batch is cut into, a power of two; each part is one forward and backward pass."""
    validate_every: Count = 200
    """Steps between validation losses."""
    shuffle_window: Count = 4
    """Shards whose samples are shuffled together; the order of the shards is shuffled too."""

    @model_validator(mode="after")
    def _cuts(self) -> "Training":
        if self.micro_batches & (self.micro_batches - 1):
            below = 1 << (self.micro_batches.bit_length() - 1)
            raise ValueError(f"micro_batches {self.micro_batches} is not a power of two; use {below} or {below * 2}")
        if self.batch_size % self.micro_batches:
            raise ValueError(f"micro_batches {self.micro_batches} does not divide batch_size {self.batch_size}")
        return self


class Execution(Settings):
    """How the run is carried out. Nothing here changes a byte of the result, and changing it makes nothing stale."""

    checkpoint_every: Count = 200
    """Steps between checkpoints of the work in progress."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept while the run lasts."""
    loader_workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that read and decode."""
