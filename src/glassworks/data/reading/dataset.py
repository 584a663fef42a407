"""Random access to the samples of a shard directory, by offset into memory-mapped tars. Nothing is decoded here."""

import json
import mmap
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch.utils.data import ConcatDataset, Dataset

from glassworks.artifacts.digests import sha256_file
from glassworks.config.datasets import Split
from glassworks.data.sidecars import INDEX, Entry, Sidecar, read_sidecar, sidecar_path
from glassworks.errors import ArtifactError, DataError
from glassworks.watchdog import beat

REMEDY = "check the artefact with `glassworks verify`, or make the shards again"
Verify = Literal["size", "first_touch"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One undecoded sample."""

    key: str
    members: dict[str, memoryview]
    """Bytes by extension: read-only views of the mapped tar, which stays mapped while a view is alive."""
    where: str
    """Shard and key, for error messages."""

    def json(self) -> dict[str, Any]:
        """The member `json`: captions, labels, key and group in shards that glassworks wrote."""
        try:
            value = json.loads(bytes(self.members["json"]))
        except KeyError:
            raise DataError(f"{self.where}: has no member json") from None
        except ValueError:
            raise DataError(f"{self.where}: its member json is not JSON") from None
        if not isinstance(value, dict):
            raise DataError(f"{self.where}: its member json is not a JSON object")
        return value


class _Open(NamedTuple):
    view: memoryview
    samples: list[Entry]


class ShardDataset(Dataset[Sample]):
    """The samples of one split, in the order of the shards (`Samples`).

    Each process opens a tar on first access and keeps at most `max_open` tars open. Opening checks the size of the tar
    against the sidecar and, with verify="first_touch", its sha256. Raises `ArtifactError` naming shard and sample for a
    tar that is missing, truncated or altered.
    """

    def __init__(self, directory: Path, split: Split, verify: Verify = "size", max_open: int = 32) -> None:
        self.directory, self.verify, self.max_open = directory, verify, max_open
        self.shards = [shard for shard in read_index(directory) if shard["split"] == split]
        self.shard_sizes = [shard["samples"] for shard in self.shards]
        self.ends = list(accumulate(self.shard_sizes))
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._verified: set[int] = set()

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        beat()
        shard = bisect_right(self.ends, index)
        within = index - (self.ends[shard] - self.shard_sizes[shard])
        opened = self._open.get(shard)
        if opened is None:
            opened = self._touch(shard, within)
        else:
            self._open.move_to_end(shard)
        entry, view = opened.samples[within], opened.view
        members = {extension: view[at : at + size] for extension, (at, size) in entry.members.items()}
        return Sample(entry.key, members, f"{self.shards[shard]['tar']}: sample {entry.key!r}")

    def _touch(self, shard: int, within: int) -> _Open:
        listed = self.shards[shard]
        path = self.directory / listed["tar"]
        sidecar = read_sidecar(sidecar_path(path))
        if (sidecar.sha256, sidecar.size, len(sidecar.samples)) != (
            listed["sha256"],
            listed["size"],
            listed["samples"],
        ):
            raise ArtifactError(f"{sidecar_path(path)}: belongs to other shards than {INDEX} lists; {REMEDY}")
        where = f"{path}: sample {sidecar.samples[within].key!r}"
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                if size != sidecar.size:
                    fault = "was truncated" if size < sidecar.size else "has grown"
                    raise ArtifactError(
                        f"{where} cannot be read: the shard {fault}: {size:,} bytes, not {sidecar.size:,}; {REMEDY}"
                    )
                view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise ArtifactError(f"{where} cannot be read: {error.strerror}; {REMEDY}") from None
        if any(at + length > size for entry in sidecar.samples for at, length in entry.members.values()):
            raise ArtifactError(f"{sidecar_path(path)}: points outside its tar; {REMEDY}")
        if self.verify == "first_touch" and shard not in self._verified:
            _check_digest(path, view, sidecar)
            self._verified.add(shard)
        self._open[shard] = opened = _Open(view, sidecar.samples)
        while len(self._open) > self.max_open:
            self._open.popitem(last=False)  # the map closes when the last view of it is dropped
        return opened


class JoinedShards(ConcatDataset[Sample]):
    """The samples of several `ShardDataset`s, one after another (`Samples`)."""

    def __init__(self, datasets: Sequence[ShardDataset]) -> None:
        super().__init__(datasets)
        self.shard_sizes = [size for dataset in datasets for size in dataset.shard_sizes]


def read_index(directory: Path) -> list[dict[str, Any]]:
    """The shards listed in `shards.json`: tar, split, samples, sha256, size."""
    path = directory / INDEX
    try:
        shards: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["shards"]
        if all({"tar", "split", "samples", "sha256", "size"} <= shard.keys() for shard in shards):
            return shards
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; make the shards first") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ArtifactError(f"{path}: not a list of shards; {REMEDY}")


def _check_digest(path: Path, view: memoryview, sidecar: Sidecar) -> None:
    """Raise `ArtifactError` naming the altered samples when the digest of a tar differs from its sidecar."""
    if sha256_file(path) == sidecar.sha256:
        return
    hit = [entry.key for entry in sidecar.samples if _crc32(view, entry) != entry.crc32]
    named = (
        f"sample {hit[0]!r}" + (f" and {len(hit) - 1} more" if len(hit) > 1 else "")
        if hit
        else "a header, no sample's bytes"
    )
    raise ArtifactError(f"{path}: {named}: altered since it was written (its sha256 is not the sidecar's); {REMEDY}")


def _crc32(view: memoryview, entry: Entry) -> int:
    crc = 0
    for at, size in sorted(entry.members.values()):  # as they lie in the tar
        crc = zlib.crc32(view[at : at + size], crc)
    return crc
