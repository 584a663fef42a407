"""Protocols of tasks, models and micro-batches, against which the loop and the stages are written.

M  the model
E  an example: one row, decoded and augmented
B  a micro-batch: a dataclass of tensors with the keys of its samples
R  a row of the arranged data set; a `Sample` unless the task packs rows
O  the options of the task for a data set; without fields unless the task declares some
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from typing_extensions import TypeVar

from glassworks.config.data import Options
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.rows import Keyed, Rows, Samples
from glassworks.models.saving import Matches


class Batch(Protocol):
    """A micro-batch: a dataclass of tensors, or of dictionaries of tensors."""

    @property
    def keys(self) -> list[str]:
        """The keys of its samples, named in errors."""
        ...


@dataclass(frozen=True)
class Loss:
    """The loss of a micro-batch, or of the global batch for a `CoupledTask`."""

    total: Tensor
    """The differentiable *sum* over the targets (tokens, samples)."""
    weight: float
    """The number of targets, or the sum of their weights. The engine divides by that of the global batch."""
    parts: Mapping[str, tuple[Tensor, float]] = field(default_factory=dict)
    """Named terms, each as (detached sum, weight), logged as their means. The names are the same for every micro-batch."""
    carry: tuple[Tensor, ...] = ()
    """The state for the next pass over the same micro-batch (`Trainable.passes`), detached by the engine."""


M = TypeVar("M", bound=nn.Module)
E = TypeVar("E")
B = TypeVar("B", bound=Batch)
R = TypeVar("R", bound=Keyed, default=Sample)
O_contra = TypeVar("O_contra", bound=Options, contravariant=True, default=Options)
M_contra = TypeVar("M_contra", bound=nn.Module, contravariant=True)
B_contra = TypeVar("B_contra", bound=Batch, contravariant=True)


class Network(Protocol):
    """The methods of a model beside those of `nn.Module`."""

    def blocks(self) -> Iterator[nn.Module]:
        """The blocks that gradient checkpointing recomputes."""
        ...

    def shards(self) -> Iterator[nn.Module]:
        """The modules that FSDP2 shards separately."""
        ...


class Trainable(Protocol[M, B_contra]):
    """A model with a loss and held-out metrics: the part of a task that the training loop calls."""

    @property
    def metrics(self) -> Sequence[str]:
        """Names of the metrics that `validate` returns."""
        ...

    def build(self) -> M:
        """The model with its initial weights, drawn from torch's default generator."""
        ...

    @property
    def passes(self) -> int:
        """Optimizer updates on each global batch: 1, or more for deep supervision."""
        ...

    def loss(self, model: M, batch: B_contra, carry: tuple[Tensor, ...] = (), /) -> Loss:
        """The loss of a micro-batch. `carry` is that of its previous pass, empty in the first."""
        ...

    def validate(self, model: M, batch: B_contra, /) -> Mapping[str, tuple[float, float]]:
        """Every metric of a held-out micro-batch as (sum, weight)."""
        ...


class Task(Trainable[M, B], Protocol[M, E, B, R, O_contra]):
    """A trainable model with its input pipeline, from the samples of a split to micro-batches."""

    def save(self, model: M, folder: Path, /) -> None:
        """Write the model, with its tokenizer if it has one, so that it can be used without its project."""
        ...

    def arrange(self, dataset: Samples, folder: Path | None = None, /) -> Rows[R]:
        """The rows that the samples of a split become; `folder` holds those of a task that packs (stage `pack`)."""
        ...

    def example(self, row: R, part: O_contra, seed: int, /) -> E:
        """One row as an example; `part` holds the options of its data set. All randomness derives from `seed`."""
        ...

    def collate(self, examples: list[E], /) -> B:
        """Examples as a micro-batch."""
        ...


@runtime_checkable
class StartingTask(Protocol[M_contra]):
    """A task that fills the model that it has built with published or trained weights, unless they are random."""

    def start(self, model: M_contra, seed: int, /) -> Matches | None:
        """Set the initial weights; new parameters derive from `seed`. Returns the origin of the weights, or None for those that were built."""
        ...


@runtime_checkable
class CutsTexts(Protocol):
    """A task that cuts long texts."""

    def count_cut(self, dataset: Samples, /) -> tuple[int, int]:
        """The numbers of texts, and of those that lose their end."""
        ...


@runtime_checkable
class CoupledTask(Protocol[M_contra, B_contra]):
    """A task whose loss couples all samples of the global batch. It takes the place of `Trainable.loss`."""

    def embed(self, model: M_contra, batch: B_contra, /) -> dict[str, Tensor]:
        """Embeddings of a micro-batch, each [samples, …] in the order of the samples."""
        ...

    def coupled_loss(self, model: M_contra, embeddings: dict[str, Tensor], /) -> Loss:
        """The loss of the global batch.

        It may use parameters of the model that no embedding depends on, such as a logit scale.
        """
        ...
