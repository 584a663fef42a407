"""The stage `shards`: records and their media become WebDataset tars with sidecars, in contiguous blocks that jobs
build in parallel.

A tar depends on its records alone, so the bytes are the same on any machine and however many jobs run at once. Tars
that a source already has are taken as they are, never re-encoded.
"""

import errno
import hashlib
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from glassworks.artifacts.digests import canonical_json
from glassworks.config.datasets import Split
from glassworks.data.records import Record, Rows
from glassworks.data.sidecars import BLOCK, Entry, Sidecar, read_head, scan_tar, sidecar_path
from glassworks.errors import ArtifactError, DataError

Media = Callable[[Record], dict[str, bytes]]
ReadyMade = Callable[[str], tuple[Path, str]]
PIECE = 1 << 20
NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}


@dataclass(frozen=True)
class Plan:
    """One shard to be made."""

    name: str
    split: Split
    records: Rows | list[Record]
    tar: str | None = None
    """The ready-made tar it is, by the source's name for it."""


def is_complete(folder: Path, plan: Plan) -> bool:
    """Whether an earlier run left this shard whole: tar and sidecar are there and agree."""
    tar = folder / f"{plan.name}.tar"
    try:
        head = read_head(sidecar_path(tar))
        return tar.stat().st_size == head.size and head.count == len(plan.records)
    except (ArtifactError, OSError):
        return False


def write_tar(folder: Path, plan: Plan, media: Media) -> Iterator[Record]:
    """Write one shard and its sidecar, yielding each record when it is written. Digest and offsets are taken on the
    way; nothing is read back.
    """
    tar, samples = folder / f"{plan.name}.tar", []
    temporary = folder / f".{plan.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            hashed = _Hashed(file)
            with open_tar(hashed) as opened:
                for record in plan.records:
                    samples.append(write_sample(opened, record.key, members_of(record, media)))
                    yield record
            hashed.flush()
        sidecar = Sidecar(tar.name, hashed.digest.hexdigest(), hashed.size, samples)
        _finish(temporary, tar, sidecar)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def members_of(record: Record, media: Media) -> dict[str, bytes]:
    """The members of a sample in order: media by extension, then `json` with everything else that is known."""
    found = media(record)
    text = canonical_json(
        {"captions": record.captions, "labels": record.labels, "key": record.key, "group": record.group}
    )
    return {**{extension: found[extension] for extension in sorted(found)}, "json": text.encode()}


def open_tar(file: Any) -> tarfile.TarFile:
    """A tar with ustar headers, and pax ones before names that ustar cannot hold. By the standard library, since
    webdataset's writer, whose bytes these are, brings torch into every job.
    """
    return tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", copybufsize=PIECE)


def write_sample(tar: tarfile.TarFile, key: str, members: dict[str, bytes]) -> Entry:
    """Write the members of a sample in the order given, with nothing from the clock or the user; returns where they
    lie.
    """
    places, crc = {}, 0
    for extension, data in members.items():
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size, header.mode = len(data), 0o444
        header.uname = header.gname = "glassworks"
        tar.addfile(header, io.BytesIO(data))
        places[extension] = (tar.offset - (len(data) + -len(data) % BLOCK), len(data))
        crc = zlib.crc32(data, crc)
    return Entry(key, places, crc)


def adopt_tar(folder: Path, plan: Plan, ready_made: ReadyMade) -> None:
    """Take a tar as it is, with a sidecar of the samples that have a record, under the keys of the records.

    Raises `DataError` naming the tar when it is not what `fetch` saw.
    """
    assert plan.tar is not None
    tar = folder / f"{plan.name}.tar"
    source, expected = ready_made(plan.tar)
    scan = scan_tar(source)
    if scan.sha256 != expected:
        raise DataError(
            f"{source}: changed since it was fetched (its sha256 is another); run again to take it in as it is now"
        )
    keys = {record.media["key"]: record.key for record in plan.records}
    samples = [Entry(keys[entry.key], entry.members, entry.crc32) for entry in scan.samples if entry.key in keys]
    temporary = folder / f".{plan.name}.{os.getpid()}.tmp"
    try:
        link_or_copy(source, temporary)
        _finish(temporary, tar, Sidecar(tar.name, scan.sha256, scan.size, samples))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system or the owner of the file allows none."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)


def _finish(temporary: Path, tar: Path, sidecar: Sidecar) -> None:
    """Sidecar first, then the tar under its name. A kill is survived; flushing to disk is for the sealing of the
    artefact.
    """
    tar.unlink(missing_ok=True)
    unnamed = temporary.with_suffix(".json")
    unnamed.write_text(sidecar.text(), encoding="utf-8")
    unnamed.replace(sidecar_path(tar))
    temporary.replace(tar)


class _Hashed:
    """A file that hashes what is written to it, gathered into large pieces."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0
        self._waiting: list[bytes] = []
        self._waiting_size = 0

    def write(self, data: bytes) -> int:
        self._waiting.append(data)
        self._waiting_size += len(data)
        if self._waiting_size >= PIECE:
            self.flush()
        return len(data)

    def tell(self) -> int:
        return self.size + self._waiting_size

    def flush(self) -> None:
        piece = b"".join(self._waiting)
        self.digest.update(piece)
        self.file.write(piece)
        self.size += len(piece)
        self._waiting, self._waiting_size = [], 0
