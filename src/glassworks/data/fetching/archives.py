"""Extraction of untrusted zip and tar archives: complete and inside the target folder, or not at all.

Refuses members with absolute paths, members that point outside, links, devices and encrypted members. Refuses archives
that are damaged, truncated or larger than the free disk space.
"""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

from glassworks.artifacts.digests import disk_errors
from glassworks.config.user_files import is_litter
from glassworks.errors import DataError, ResourceError
from glassworks.progress import Progress

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)


def is_archive(path: Path) -> bool:
    """Whether `path` has the name of a supported archive."""
    return path.name.lower().endswith(SUFFIXES)


def extract(archive: Path, target: Path) -> None:
    """Extract `archive` to the new folder `target`.

    Raises `DataError` naming the refused member, and `ResourceError` when the disk is too small. After an error,
    `target` does not exist.
    """
    beside = target.with_name(f".{target.name}.extracting")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        with disk_errors(beside), _damage_named(archive):
            if archive.name.lower().endswith(".zip"):
                _extract_zip(archive, beside)
            else:
                _extract_tar(archive, beside)
        beside.rename(target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def is_inside(name: str) -> bool:
    """Whether an untrusted relative path stays inside its base folder, also where backslashes separate folders."""
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    return not (path.is_absolute() or windows.root or ".." in path.parts or ".." in windows.parts or "\0" in name)


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        reason = str(error).split("\n")[0].rstrip(":")
        raise DataError(f"{archive}: the archive is damaged or incomplete ({reason}); get it again") from None


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = []
        names = _Names(archive)
        for member in opened.infolist():
            if not is_inside(member.filename):
                raise _refusal(archive, member.filename, "it points outside the archive")
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(archive, member.filename, "it is a link or a device")
            if member.flag_bits & 1:
                raise _refusal(archive, member.filename, "it is encrypted")
            member.filename = _zip_name(member)
            if not is_inside(member.filename):
                raise _refusal(archive, member.filename, "it points outside the archive")
            if not is_litter(member.filename):
                members.append(member)
                names.add(member.filename, member.is_dir())
        _room_for(archive, sum(member.file_size for member in members), folder)
        with Progress(
            f"extract {archive.name}", sum(member.compress_size for member in members) // 1000, "kB"
        ) as progress:
            read = 0
            for member in members:
                opened.extract(member, folder)
                read += member.compress_size
                progress.advance(read // 1000 - progress.done)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The name of a member with slashes. Without the flag of UTF-8, a name that is UTF-8 all the same is read so."""
    name = member.filename
    if not member.flag_bits & 0x800 and not name.isascii():
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")


class _Names:
    """The names of the members of an archive, of which a later one must not overwrite an earlier one."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.seen = archive, dict[str, int]()

    def add(self, name: str, is_folder: bool) -> None:
        path = PurePosixPath(name).as_posix()
        number = len(self.seen) + 1
        if not is_folder and self.seen.setdefault(path, number) != number:
            raise _refusal(self.archive, name, f"it comes twice (files {self.seen[path]} and {number} of the archive)")


def _extract_tar(archive: Path, folder: Path) -> None:
    size = archive.stat().st_size
    with (
        archive.open("rb") as raw,
        tarfile.open(fileobj=raw, mode="r:*") as opened,
        Progress(f"extract {archive.name}", size // 1000, "kB") as progress,
    ):
        names = _Names(archive)
        for member in opened:
            if not is_inside(member.name):
                raise _refusal(archive, member.name, "it points outside the archive")
            if not (member.isreg() or member.isdir()):
                raise _refusal(archive, member.name, "it is a link or a device")
            if is_litter(member.name):
                continue
            names.add(member.name, member.isdir())
            _room_for(archive, member.size, folder)
            opened.extract(member, folder, filter="data")
            progress.advance(raw.tell() // 1000 - progress.done)
        opened.fileobj.seek(opened.offset)  # tarfile accepts a file truncated between two members
        if opened.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it stops before its end mark")
        while opened.fileobj.read(1 << 20):  # the checksum is at the end of a compressed stream
            pass


def _room_for(archive: Path, size: int, folder: Path) -> None:
    if size > (free := shutil.disk_usage(folder).free):
        raise ResourceError(
            f"{archive}: extracting needs {size:,} bytes and {free:,} are free; "
            f"free some space and run the same command again"
        )


def _refusal(archive: Path, member: str, why: str) -> DataError:
    return DataError(f"{archive}: the member {member!r} is refused: {why}; nothing was extracted")
