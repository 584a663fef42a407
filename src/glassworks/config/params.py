"""params.yaml: what `all` means."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from glassworks.config import registry
from glassworks.config.base import Name, Settings
from glassworks.config.datasets import Dataset
from glassworks.config.weights import AnyWeights

if TYPE_CHECKING:
    AnyDataset = Dataset
else:
    AnyDataset = registry.union("sources", Dataset, "source")


class Determinism(Settings):
    """What may change bits, fixed."""

    cpu_isa: Literal["native", "avx2"] = "native"
    """Instruction set of the CPU kernels. `native` is fastest; `avx2` gives the same bytes on every x86-64 machine of the last ten years."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models are trained. Devices of different kinds round differently; `auto` takes a CUDA device where there is one."""


class Report(Settings):
    """What the report shows."""

    title: str = "glassworks"
    """Heading of results/report.html."""
    gallery: Annotated[int, Field(ge=0, le=500)] = 24
    """Held-out images shown with predicted and true captions."""


class Params(Settings):
    """What `all` means: seed, determinism, datasets, the list of experiments."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything that draws: splits, composed data, order, initial weights, dropout."""
    determinism: Determinism = Determinism()
    """What may change bits, fixed."""
    datasets: dict[Name, AnyDataset]
    """The datasets to fetch, split and shard."""
    weights: dict[Name, AnyWeights] = Field(default={})
    """Published weights that experiments begin with, by a name of your choice."""
    experiments: list[Name]
    """Names of files in experiments/ (without .yaml) that `all` trains and evaluates."""
    report: Report = Report()
    """What the report shows."""
    watchdog_minutes: Annotated[float, Field(gt=0)] | None = 30
    """A stage that makes no progress for so long is ended, to be tried again; null waits for ever. Makes nothing stale but the report."""
