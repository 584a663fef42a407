"""How a model is trained: the global batch, precision and reduction, what is kept; and how the run is carried out."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings

Count = Annotated[int, Field(ge=1)]


class Selection(Settings):
    """Which weights are published, and when to stop early; decided by a metric of the validation split."""

    publish: Literal["last", "best"] = "last"
    """The weights after the last step, or those of the best validation."""
    metric: str = "validation_loss"
    """The metric that decides."""
    mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""
    patience: Count | None = None
    """Stop after so many validations in a row without a better one; null never stops early."""


class Training(Settings):
    """The run: how many steps of which global batch, in which precision, and what is kept of it."""

    steps: Count
    """Optimizer steps."""
    batch_size: Count = 64
    """Samples of one step over all workers."""
    micro_batches: Count = 4
    """Parts the global batch is cut into, a power of two; each part is one forward and backward pass, and there can be no more workers than parts."""
    shuffle_window: Count = 4
    """Shards whose samples are shuffled together; the order of the shards is shuffled too."""
    reduction: Literal["exact", "ddp", "fsdp2"] = "exact"
    """How workers add gradients: in a fixed tree (the same bytes for any number of workers), or by torch's DDP or FSDP2 (the same bytes for the same number of workers only)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of forward and backward pass; weights stay fp32. bf16 and fp16 by autocast, fp16 with loss scaling."""
    compile: bool = False
    """Compile the model with torch.compile (needs a C++ compiler, on a GPU Triton; batches are padded to one length)."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep an exponential moving average of the weights, which is validated and published in their place; null keeps none."""
    validate_every: Count = 200
    """Steps between validations."""
    selection: Selection = Selection()
    """Which weights are published, and when to stop early."""
    digest_every: Count = 100
    """Steps between digests of every parameter in digests.jsonl, by which `glassworks compare` finds where two runs part."""

    @model_validator(mode="after")
    def _cuts(self) -> "Training":
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
    """How the run is carried out. Nothing here changes a byte of the result, and changing it makes nothing stale."""

    checkpoint_every: Count = 200
    """Steps between checkpoints of the work in progress."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept while the run lasts; the best one is kept beside them."""
    loader_workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that read and decode, for each training worker."""
    nodes: Count = 1
    """Machines on which the run is spread when it is submitted to SLURM, a power of two; elsewhere it runs on one."""
    workers_per_node: Count | None = None
    """Training processes on each machine at most, a power of two; null takes as many as there are granted cores or free devices."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of transformer blocks and compute the rest again in the backward pass: less memory, more time, the same bits."""
    loggers: list[Literal["tensorboard", "wandb"]] = Field(default=[])
    """Where metrics go beside metrics.jsonl: logs/tensorboard/, and Weights & Biases (logs/wandb/ when WANDB_MODE=offline)."""

    @model_validator(mode="after")
    def _powers_of_two(self) -> "Execution":
        for name in ("nodes", "workers_per_node"):
            if (number := getattr(self, name)) and number & (number - 1):
                raise ValueError(f"{name} {number} is not a power of two")
        return self
