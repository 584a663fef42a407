"""The stage `shards`: WebDataset tars with sidecars from records and media. Parallel jobs build contiguous blocks.

A tar depends on its records alone, so its bytes are the same on any machine and for any number of jobs. Ready-made tars
of a source are linked unchanged, never re-encoded.
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

from glassworks.config.base import nearest
from glassworks.config.datasets import Split
from glassworks.data.messages import as_json, media_of, stored_json
from glassworks.data.records import Record, Rows
from glassworks.data.sidecars import BLOCK, Entry, Sidecar, read_head, scan_tar, sidecar_path
from glassworks.errors import ArtifactError, DataError

Media = Callable[[Record], dict[str, bytes]]
ReadyMade = Callable[[str], tuple[Path, str]]
PIECE = 1 << 20
NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}


@dataclass(frozen=True)
class Plan:
    """A shard to build."""

    name: str
    split: Split
    records: Rows | list[Record]
    tar: str | None = None
    """Name of the ready-made tar in the source; None for a tar to write."""


def is_complete(folder: Path, plan: Plan) -> bool:
    """Whether an earlier run completed this shard: tar and sidecar exist and agree."""
    tar = folder / f"{plan.name}.tar"
    try:
        head = read_head(sidecar_path(tar))
        return tar.stat().st_size == head.size and head.count == len(plan.records)
    except (ArtifactError, OSError):
        return False


def write_tar(folder: Path, plan: Plan, media: Media) -> Iterator[Record]:
    """Write one shard and its sidecar, and yield each record after its write. Digest and offsets are computed during
    the write; nothing is read back.
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
    """The members of a sample in order: media by extension, then `json` with the other metadata.

    Raises `DataError` if a message or a size names a member that does not exist.
    """
    found = media(record)
    for name in (*media_of(record.messages), *record.sizes):
        if name not in found:
            raise DataError(
                f"sample {record.key!r}: messages or sizes name the media file {name!r}{nearest(name, list(found))}"
            )
    content = {"captions": record.texts, "labels": record.labels, "key": record.key, "group": record.group}
    for key, values in (("messages", record.messages), ("sizes", record.sizes)):
        if values:
            content[key] = as_json(values)
    text = stored_json(content)
    return {**{extension: found[extension] for extension in sorted(found)}, "json": text.encode()}


def open_tar(file: Any) -> tarfile.TarFile:
    """A tar with ustar headers, and pax headers for names that ustar cannot hold. The bytes equal those of webdataset's
    writer, which is not used because it imports torch in every job.
    """
    return tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", copybufsize=PIECE)


def write_sample(tar: tarfile.TarFile, key: str, members: dict[str, bytes]) -> Entry:
    """Write the members of a sample in the given order, without times or owners. Returns their offsets and sizes."""
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
    """Link an unchanged tar, and write a sidecar of its samples that have a record, under the keys of the records.

    Raises `DataError` naming a tar that changed since `fetch`.
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
    """Create a hard link, or a copy if the file system or the file's owner forbids links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)


def _finish(temporary: Path, tar: Path, sidecar: Sidecar) -> None:
    """Rename the sidecar, then the tar, so a kill leaves no incomplete shard. Sealing of the artefact flushes both to
    disk.
    """
    tar.unlink(missing_ok=True)
    unnamed = temporary.with_suffix(".json")
    unnamed.write_text(sidecar.text(), encoding="utf-8")
    unnamed.replace(sidecar_path(tar))
    temporary.replace(tar)


class _Hashed:
    """A file that hashes all written bytes and buffers them into large writes."""

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
