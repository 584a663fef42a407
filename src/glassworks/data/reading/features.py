"""Features of a data set from the stage `features`, joined to its samples by key, by offset into memory-mapped safetensors."""

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glassworks.artifacts.digests import sha256_file
from glassworks.data.reading.dataset import Sample, Verify
from glassworks.data.reading.rows import Samples
from glassworks.errors import ArtifactError, DataError
from glassworks.watchdog import beat

INDEX = "features.json"
"""The encoder, its identity, the data set, and the list of all files of features."""
KEYS = "keys"
"""The metadata of a file that holds the keys of its samples as JSON."""
PRESENT = "present"
"""The tensor that is False at samples without the modality; a file in which all samples have it lacks the tensor."""
FRAMES = "frames"
"""The tensor int64 [samples] with the pictures of each sample: images, crops and frames in the order of its tokens. It is 0 for one image. A file without
other samples lacks it. The other tensors of the file but `present` then hold one row for each picture.
"""
REMEDY = "check the artefact with `glassworks verify`, or make the features again"
FIELDS = {"encoder", "identity", "dataset", "width", "shards"}


class ListedShards(Samples, Protocol):
    """The samples of one split, with the shards that hold them."""

    directory: Path
    shards: list[dict[str, Any]]
    """The entries of shards.json."""


class FeatureTable:
    """The features of all samples of a data set by one encoder: an artefact of the stage `features`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = directory / INDEX
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            missing = FIELDS - index.keys()
        except FileNotFoundError:
            raise ArtifactError(f"{path}: missing; make the features first") from None
        except (ValueError, AttributeError):
            missing = FIELDS
        if missing:
            raise ArtifactError(f"{path}: not an index of features; {REMEDY}")
        self.encoder: str = index["encoder"]
        self.identity: dict[str, Any] = index["identity"]
        self.dataset: str = index["dataset"]
        self.width: int = index["width"]
        self.files: dict[str, dict[str, Any]] = {shard["tar_sha256"]: shard for shard in index["shards"]}
        """The entry of each file, by the sha256 of the shard that it was made from."""

    @property
    def tokens(self) -> int | None:
        """Tokens of a sample; None for pooled features. Raises `ArtifactError` for a file that cannot be read."""
        path = self.directory / next(iter(self.files.values()))["file"]
        try:
            with safe_open(path, "pt") as file:
                shape = file.get_slice("features").get_shape()
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{path}: cannot be read ({error}); {REMEDY}") from None
        return int(shape[1]) if len(shape) == 3 else None

    def covers(self, samples: ListedShards) -> bool:
        """Whether these features were made from these shards."""
        return all(shard["sha256"] in self.files for shard in samples.shards)


class _Open(NamedTuple):
    keys: list[str]
    tensors: dict[str, Tensor]
    frames: list[int] | None = None
    """Pictures of each sample, 0 for one image; None in a file with one image a sample."""
    starts: Sequence[int] = ()
    """The first row of each sample in a file with several pictures a sample."""

    def row(self, index: int) -> dict[str, Tensor]:
        """The tensors of a sample. Those of several pictures have one row for each."""
        if self.frames is None:
            return {name: tensor[index] for name, tensor in self.tensors.items()}
        start, count = self.starts[index], self.frames[index]
        place = slice(start, start + count) if count else start
        return {name: tensor[index if name == PRESENT else place] for name, tensor in self.tensors.items()}


class FeatureRows:
    """The features of the samples of one split, in the order of the shards.

    Each process opens a file on first access and keeps at most `max_open` files mapped. With verify="first_touch" it checks the sha256 once. Raises
    `ArtifactError` for a file that is missing or altered.
    """

    def __init__(
        self, table: FeatureTable, samples: ListedShards, verify: Verify = "first_touch", max_open: int = 32
    ) -> None:
        self.table, self.verify, self.max_open = table, verify, max_open
        self.listed = [table.files[shard["sha256"]] for shard in samples.shards]
        self.ends = list(accumulate(samples.shard_sizes))
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._verified: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __getitem__(self, index: int) -> tuple[str, dict[str, Tensor]]:
        """Key and features of a sample: read-only views of the mapped file."""
        shard = bisect_right(self.ends, index)
        within = index - (self.ends[shard - 1] if shard else 0)
        opened = self._open.get(shard)
        if opened is None:
            opened = self._touch(shard)
        else:
            self._open.move_to_end(shard)
        return opened.keys[within], opened.row(within)

    def _touch(self, shard: int) -> _Open:
        beat()
        listed = self.listed[shard]
        path = self.table.directory / listed["file"]
        try:
            if self.verify == "first_touch" and shard not in self._verified and sha256_file(path) != listed["sha256"]:
                raise ArtifactError(f"{path}: altered since it was written; {REMEDY}")
            self._verified.add(shard)
            with safe_open(path, "pt") as file:
                keys = json.loads(file.metadata()[KEYS])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: cannot be read ({error}); {REMEDY}") from None
        counts = tensors.pop(FRAMES, None)
        if counts is None:
            opened = _Open(keys, tensors)
        else:
            rows = counts.clamp(min=1)
            opened = _Open(keys, tensors, counts.tolist(), (rows.cumsum(0) - rows).tolist())
        self._open[shard] = opened
        while len(self._open) > self.max_open:
            self._open.popitem(last=False)
        return opened


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A sample with its stored features."""

    key: str
    features: dict[str, dict[str, Tensor]]
    """Tensors of the sample, by the name of the features."""
    sample: Sample | None
    """The undecoded sample, if it was asked for."""


class JoinedFeatures:
    """The samples of one split joined to their features by key (`Rows[FeatureRow]`).

    Without `with_samples`, no tar is opened.
    """

    def __init__(self, samples: Samples, features: Mapping[str, FeatureRows], with_samples: bool) -> None:
        self.samples, self.features, self.with_samples = samples, features, with_samples
        assert with_samples or features
        self.shard_sizes = samples.shard_sizes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> FeatureRow:
        sample = self.samples[index] if self.with_samples else None
        key, found = sample.key if sample else None, {}
        for name, rows in self.features.items():
            own, found[name] = rows[index]
            if key is not None and own != key:
                raise DataError(f"{rows.table.directory}: row {index} holds the sample {own!r}, not {key!r}; {REMEDY}")
            if found[name]["features"].dim() > 2:
                raise DataError(
                    f"{rows.table.directory}: the sample {own!r} has several images or frames, and this task reads one image a sample"
                )
            key = own
        assert key is not None
        return FeatureRow(key, found, sample)


def covering(tables: Sequence[FeatureTable], samples: ListedShards, name: str) -> FeatureTable:
    """The table that was made from these shards. Raises `DataError` that names the features if there is none."""
    found = next((table for table in tables if table.covers(samples)), None)
    if found is None:
        made = ", ".join(f"{table.encoder} of {table.dataset}" for table in tables)
        raise DataError(
            f"{samples.directory}: the features of {name!r} were not made from these shards, but are {made or 'missing'}; "
            "make the features of this dataset"
        )
    return found


def stack_features(features: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The stored features of B samples as tensors [B, …]. `PRESENT` [B] is True where a file lacks it."""
    found = {name: torch.stack([one[name] for one in features]) for name in features[0] if name != PRESENT}
    return {**found, PRESENT: torch.stack([one.get(PRESENT, torch.tensor(True)) for one in features])}
