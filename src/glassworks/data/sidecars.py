"""The sidecar of a shard: the offsets of all members of a tar, and the size and sha256 of the tar.

`scan_tar` builds the sidecar of an existing tar (img2dataset's and webdataset's included) in a single strict pass that
reads, hashes and indexes. It refuses tars truncated at a member boundary or inside a header, which `tarfile` and
`webdataset` silently accept.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from glassworks.artifacts.digests import write_text
from glassworks.config.user_files import is_litter
from glassworks.errors import ArtifactError, DataError

SCHEMA = 1
INDEX = "shards.json"
"""The list of all shards of an artefact: tar, split, samples, sha256, size of each."""
BLOCK = 512
CHUNK = 1 << 20
ZEROS = bytes(BLOCK)
LONGEST_NAME = 1 << 16
"""Maximum bytes of a long-name or pax header; a larger header means damage."""


class Entry(NamedTuple):
    """One sample of a shard."""

    key: str
    members: dict[str, tuple[int, int]]
    """Offset in the tar and size in bytes of each member, by extension."""
    crc32: int
    """CRC of the members in the order of the tar. Locates the damaged samples of a shard."""


@dataclass(frozen=True)
class Sidecar:
    """The index of a shard, written next to the tar as `train-00003.json`."""

    tar: str
    sha256: str
    size: int
    samples: list[Entry] = field(repr=False)
    passed_over: list[str] = field(default_factory=list, repr=False, compare=False)
    """Members of a scanned tar that make no sample: without an extension or a key. Not written."""

    def text(self) -> str:
        """The file's text: JSON with the head (`read_head`) on the first line, then one sample per line."""
        encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
        count = len(self.samples)
        head = encode({"schema": SCHEMA, "tar": self.tar, "sha256": self.sha256, "size": self.size, "count": count})
        samples = encode([{"key": s.key, "members": s.members, "crc32": s.crc32} for s in self.samples])
        lines = samples[1:-1].replace('},{"key":', '},\n{"key":')  # inside a string every quote follows a backslash
        return f'{head[:-1]},"samples":[\n{lines}\n]}}\n'


def sidecar_path(tar: Path) -> Path:
    """`train-00003.json` for `train-00003.tar`."""
    return tar.with_suffix(".json")


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Write a sidecar atomically."""
    write_text(path, sidecar.text())


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar at `path`. Raises `ArtifactError` for a missing or invalid file."""
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA:
            raise ArtifactError(
                f"{path}: a sidecar of schema {value['schema']}, this is schema {SCHEMA}; make the shards again"
            )
        samples = [
            Entry(s["key"], {ext: (at, n) for ext, (at, n) in s["members"].items()}, s["crc32"])
            for s in value["samples"]
        ]
        return Sidecar(value["tar"], value["sha256"], value["size"], samples)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; make the shards again") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{path}: not the sidecar of a shard; make the shards again") from None


class Head(NamedTuple):
    """The first line of a sidecar."""

    tar: str
    sha256: str
    size: int
    count: int
    """Samples."""


def read_head(path: Path) -> Head:
    """The first line of a sidecar, at a cost independent of the number of samples. Raises as `read_sidecar` does."""
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(10_000)
        value = json.loads(line.rstrip() + "]}")
        return Head(*(value[name] for name in Head._fields))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; make the shards again") from None
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{path}: not the sidecar of a shard; make the shards again") from None


def scan_tar(path: Path) -> Sidecar:
    """Read, hash and index a tar of samples in one pass.

    The key of a sample is its path up to the first dot of the base name, directory included. The rest, in lower case,
    is the extension. ustar, pax and GNU long names are supported. Directories, litter (`is_litter`) and webdataset's
    `__meta__` members are skipped; members without key or extension (README, LICENSE) are passed over and listed.
    Bytes of a name that are not UTF-8 become surrogates.

    Raises `DataError` with the tar, the byte and the sample for:
    - a tar without two zero blocks at its end (truncated at a member boundary), or truncated in a header or payload;
    - a wrong header checksum, or data after the end;
    - a sample whose members are not adjacent, or that has an extension twice;
    - an absolute path or a path with `..`;
    - links and devices.
    """
    try:
        with path.open("rb", buffering=CHUNK) as file:
            return _Scan(path, file).run()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


class _Scan:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.digest, self.position = hashlib.sha256(), 0
        self.samples: list[Entry] = []
        self.seen: set[str] = set()
        self.passed_over: list[str] = []
        self.last = ""
        """The last member read, for error messages."""
        self.everywhere: dict[str, str] = {}
        """Pax records for the rest of the tar."""
        self.next_only: dict[str, str] = {}
        """Pax records for the next member, with a GNU long name as `path`."""

    def run(self) -> Sidecar:
        while (header := self._header()) is not None:
            kind, name, size, start = header
            if kind in b"xgLK":
                self._extension(kind, size, start)
            else:
                self._member(kind, name, size, start)
        self._only_zeros_follow()
        return Sidecar(self.path.name, self.digest.hexdigest(), self.position, self.samples, self.passed_over)

    def _fault(self, offset: int, what: str) -> NoReturn:
        raise DataError(f"{self.path}: byte {offset:,}: {what}")

    def _after(self) -> str:
        return f"after the member {self.last!r}" if self.last else "before the first member"

    def _read(self, count: int) -> bytes:
        data = self.file.read(count)
        self.digest.update(data)
        self.position += len(data)
        return data

    def _header(self) -> tuple[bytes, str, int, int] | None:
        """Type, name, payload size and offset of the next header; None at the two zero blocks that end the archive."""
        start, block = self.position, self._read(BLOCK)
        if not block:
            self._fault(
                start,
                f"the tar ends {self._after()} without its two closing zero blocks: it was cut, samples may be missing",
            )
        if len(block) < BLOCK:
            self._fault(start, f"the tar is cut inside a header, {self._after()}")
        if block == ZEROS:
            if self._read(BLOCK) != ZEROS:
                self._fault(
                    start, f"a tar ends in two zero blocks; {self._after()} there is only one: it was cut or altered"
                )
            return None
        if not _checksum_holds(block):
            self._fault(
                start,
                f"wrong checksum of the header {self._after()}: altered, or no tar (compressed ones are not read)",
            )
        try:
            name = _decoded(block[:100].split(b"\0", 1)[0])
            if block[257:263] == b"ustar\0" and block[345]:
                name = f"{_decoded(block[345:500].split(bytes(1), 1)[0])}/{name}"
            return block[156:157], name, _number(block[124:136]), start
        except ValueError:
            self._fault(
                start,
                f"the header {self._after()} cannot be read (a size that is no number)",
            )

    def _payload(self, size: int, what: str, crc: int = 0) -> int:
        """Read a payload and its padding. Returns `crc` updated with the payload."""
        start = self.position
        while (left := start + size - self.position) > 0:
            data = self._read(min(left, CHUNK))
            if not data:
                self._fault(
                    self.position,
                    f"the tar is cut inside {what}: {self.position - start:,} of {size:,} bytes are there",
                )
            crc = zlib.crc32(data, crc)
        padding = -size % BLOCK
        if len(self._read(padding)) < padding:
            self._fault(self.position, f"the tar is cut right after {what}, in its padding")
        return crc

    def _extension(self, kind: bytes, size: int, start: int) -> None:
        if size > LONGEST_NAME:
            self._fault(start, f"a name of {size:,} bytes, {self._after()}: the tar was altered")
        data = self._read(size + -size % BLOCK)[:size]
        if len(data) < size or self.position % BLOCK:
            self._fault(start, f"the tar is cut inside a long name, {self._after()}")
        try:
            if kind == b"L":
                self.next_only["path"] = _decoded(data.split(b"\0", 1)[0])
            elif kind != b"K":
                (self.everywhere if kind == b"g" else self.next_only).update(_pax_records(data))
        except ValueError:
            self._fault(start, f"the extended header {self._after()} cannot be read")

    def _member(self, kind: bytes, name: str, size: int, start: int) -> None:
        records, self.next_only = {**self.everywhere, **self.next_only}, {}
        name = records.get("path", name)
        if "size" in records:
            size = (
                int(records["size"])
                if records["size"].isdecimal()
                else self._fault(start, f"the member {name!r} has no size")
            )
        if name.startswith("/") or ".." in name.split("/"):
            self._fault(start, f"the member {name!r} points outside the tar")
        if kind == b"5" or (kind in b"0\0" and name.endswith("/")):
            size = 0 if kind == b"5" else size
            self._payload(size, f"the folder {name!r}")
            return
        if kind not in (b"0", b"\0", b"7") or any(record.startswith("GNU.sparse") for record in records):
            self._fault(
                start, f"the member {name!r} is {_KINDS.get(kind, 'of an unknown kind')}; only plain files make samples"
            )
        if is_litter(name) or ("/" not in name and name.startswith("__") and name.endswith("__")):
            self._payload(size, f"the member {name!r}")
            return
        self._sample_member(name, size, start)

    def _sample_member(self, name: str, size: int, start: int) -> None:
        folder, slash, base = name.rpartition("/")
        stem, _, extension = base.partition(".")
        key, extension = f"{folder}{slash}{stem}", extension.lower()
        if not stem or not extension:
            self.passed_over.append(name)
            self._payload(size, f"the member {name!r}")
            self.last = name
            return
        if not self.samples or self.samples[-1].key != key:
            if key in self.seen:
                self._fault(
                    start,
                    f"sample {key!r}: its member {name!r} is not beside the others, as members of a sample must be",
                )
            self.seen.add(key)
            self.samples.append(Entry(key, {}, 0))
        members = self.samples[-1].members
        if extension in members:
            self._fault(
                start,
                f"sample {key!r}: the extension {extension!r} comes twice (first with its data at byte {members[extension][0]:,})",
            )
        members[extension] = (self.position, size)
        crc = self._payload(size, f"the member {name!r} of sample {key!r}", self.samples[-1].crc32)
        self.samples[-1] = Entry(key, members, crc)
        self.last = name

    def _only_zeros_follow(self) -> None:
        while data := self._read(CHUNK):
            if data.strip(b"\0"):
                self._fault(
                    self.position - len(data),
                    "there is data after the end of the archive (tars joined with cat?); it would never be read",
                )


_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}


def _decoded(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _checksum_holds(block: bytes) -> bool:
    """Whether a header's checksum field equals the sum of its bytes, with the field counted as spaces. Sums of signed
    bytes, as in some old tars, are accepted.
    """
    try:
        stated = _number(block[148:156])
    except ValueError:
        return False
    counted = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(counted)
    return stated == unsigned or stated == unsigned - 256 * sum(byte > 127 for byte in counted)


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or base 256 if the first bit is set (GNU, for 8 GiB and more)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if text.startswith((b"-", b"+")) or b"_" in text:
        raise ValueError(field)
    return int(text or b"0", 8)


def _pax_records(data: bytes) -> dict[str, str]:
    """Parse records `LENGTH KEY=VALUE\\n`, whose length includes its own digits."""
    records, at = {}, 0
    while at < len(data):
        length, space, _ = data[at : at + 20].partition(b" ")
        end = at + int(length)
        key, equals, value = data[at + len(length) + 1 : end - 1].partition(b"=")
        if not space or not equals or not at < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ValueError(data)
        if key.startswith((b"path", b"size", b"GNU.sparse")):
            records[key.decode()] = _decoded(value)
        at = end
    return records
