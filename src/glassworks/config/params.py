"""Settings of params.yaml: the datasets, weights and experiments that `snakemake all` builds."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from glassworks.config import registry
from glassworks.config.base import Name, Settings
from glassworks.config.datasets import Dataset
from glassworks.config.encoder import Encoder
from glassworks.config.weights import AnyWeights

if TYPE_CHECKING:
    AnyDataset = Dataset
    AnyEncoder = Encoder
else:
    AnyDataset = registry.union("sources", Dataset, "source")
    AnyEncoder = registry.union("encoders", Encoder, "encoder")


class Determinism(Settings):
    """Hardware choices that affect the bits of the results."""

    cpu_isa: Literal["native", "avx2"] = "native"
    """Instruction set of the CPU kernels. `native` is fastest; `avx2` gives the same bytes on every x86-64 CPU of the last ten years."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device of trainings and stored features. `auto` uses a CUDA device if one is available, never `mps`. Devices of different kinds round differently."""


class Report(Settings):
    """Settings of results/report.html."""

    title: str = "glassworks"
    """Heading of the report."""
    gallery: Annotated[int, Field(ge=0, le=500)] = 24
    """Number of held-out images shown with predicted and true captions."""


class Params(Settings):
    """The project: seed, determinism, datasets, weights, and the experiments that `snakemake all` builds."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all random draws: splits, composed data, sample order, initial weights, dropout."""
    determinism: Determinism = Determinism()
    """Hardware choices that affect the bits of the results."""
    datasets: dict[Name, AnyDataset]
    """Datasets to fetch, split and shard, by a name of your choice."""
    weights: dict[Name, AnyWeights] = Field(default={})
    """Published weights that experiments start from, by a name of your choice."""
    encoders: dict[Name, AnyEncoder] = Field(default={})
    """Frozen encoders whose features experiments train on, by a name of your choice."""
    experiments: list[Name]
    """Experiments that `all` trains and evaluates: names of files in experiments/, without .yaml."""
    report: Report = Report()
    """Settings of the report."""
    watchdog_minutes: Annotated[float, Field(gt=0)] | None = 30
    """Minutes without progress after which a stage is killed, to be retried; null disables the watchdog. A change makes only the report stale."""
