"""Digests of files and values, and atomic writes of files."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glassworks.artifacts.machine import unique_name
from glassworks.errors import ResourceError, UserError
from glassworks.watchdog import beat

OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TICK = 2 * 10**9
"""Coarsest resolution of modification times among common file systems, in nanoseconds."""


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    beat()
    return digest


def canonical_json(value: Any) -> str:
    """Canonical JSON of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_json(value: Any) -> str:
    """Hex sha256 of a JSON value, independent of key order."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class FileDigests:
    """sha256 of files, cached by path, size, modification time and inode, for folders too large to read at every command.

    The cache is a file in .work/; deleting it costs only time. A file that was modified shortly before the cache was written is digested again: on a
    file system with coarse times it may have changed since without a new time.
    """

    def __init__(self, cache: Path) -> None:
        self.cache, self.taken, self.settled = cache, set[str](), 0
        try:
            self.settled = cache.stat().st_mtime_ns - TICK
            self.known: dict[str, list[Any]] = json.loads(cache.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            self.known = {}

    def sha256(self, path: Path) -> str:
        stat = path.stat()
        name, seen = str(path.absolute()), [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        settled = stat.st_mtime_ns <= self.settled or name in self.taken
        if not settled or name not in self.known or self.known[name][:3] != seen:
            self.known[name] = [*seen, sha256_file(path)]
            self.taken.add(name)
        return self.known[name][3]

    def save(self) -> None:
        if self.taken:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.cache, json.dumps(self.known))


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full disk, an exceeded quota or an exceeded file-size limit into a `ResourceError`, whichever library raised the error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) and error.errno else _errno_in(str(error))
        if number not in OUT_OF_SPACE:
            raise
        name = getattr(error, "filename", None) or where
        raise ResourceError(
            f"{name}: {os.strerror(number).lower()}; free some space and run the same command again"
        ) from None


def _errno_in(message: str) -> int:
    """The error number in the message of a compiled library, or 0."""
    found = re.search(r"(?:os error|errno) (\d+)", message)
    return int(found.group(1)) if found else 0


def flush_to_disk(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beat()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: temporary sibling, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{unique_name()}.tmp")
    try:
        with disk_errors(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys atomically."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
