"""Images of a local data set: their bytes, checked against the inventory, their faults and their keys.

Bytes are never changed. A file that changed since it was fetched is an error, not a dropped sample.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from glassworks.data.fetching.raw_files import Entry, open_inventory, raw_folder
from glassworks.data.file_kinds import image_extension
from glassworks.data.reading.pixels import read_image
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import track

BATCH = 32
"""Images that a thread decodes at a time: a future for each would take a sixth of the time of a small image."""


class LocalFiles:
    """The files of a local data set by path relative to its folder."""

    def __init__(self, context: Context) -> None:
        self.folder: Path = raw_folder(context)
        self.inventory: dict[str, Entry] = open_inventory(context)

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises `DataError` when they differ from the inventory."""
        path = f"{self.folder}/{name}"  # pathlib would take a tenth of the time of a small image
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                content = file.read()
        except FileNotFoundError:
            raise DataError(f"{path}: gone since it was fetched; run again") from None
        if hashlib.sha256(content).hexdigest() != self.inventory[name].sha256:
            raise DataError(f"{path}: changed since it was fetched; run again")
        return content


class ImageFiles(LocalFiles):
    """The images of a local data set."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.max_pixels: int = context.params["max_pixels"]

    def facts(self, name: str) -> "ImageFacts | str":
        """Size and format of an image that decodes completely, else the reason why it cannot be used."""
        return facts_of(self.read(name), name, self.max_pixels)

    def fault(self, name: str) -> str | None:
        """The reason why an image cannot be used; None if it decodes completely."""
        found = self.facts(name)
        return found if isinstance(found, str) else None

    def faults(self, names: list[str], threads: int, label: str) -> Iterator[str | None]:
        """`fault` of each name, in order, decoded on `threads` cores, with progress."""
        parts = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
        with ThreadPoolExecutor(threads) as pool:
            found = pool.map(self._faults, parts) if threads > 1 else map(self._faults, parts)
            yield from track(chain.from_iterable(found), label, len(names), "images")

    def _faults(self, names: list[str]) -> list[str | None]:
        return [self.fault(name) for name in names]

    def media(self, name: str) -> dict[str, bytes]:
        """The unchanged bytes, by the extension of their format, whatever the name is."""
        content = self.read(name)
        return {member_extension(content, name): content}


class ImageFacts(NamedTuple):
    """Size and format of an image."""

    width: int
    """Pixels, as it is shown."""
    height: int
    extension: str
    """Name of its member in a shard."""


def facts_of(content: bytes, name: str, max_pixels: int) -> ImageFacts | str:
    """Size and format of an image that decodes completely, else the reason why it cannot be used. Messages of the decoder have `name`."""
    try:
        width, height = read_image(content, name, max_pixels).size
    except DataError as error:
        return str(error).removeprefix(f"{name}: ")
    return ImageFacts(width, height, member_extension(content, name))


def member_extension(content: bytes, name: str) -> str:
    """The extension of an image's format, whatever its file is called."""
    return image_extension(content) or PurePosixPath(name).suffix[1:].lower()


def keys(names: Iterable[str]) -> dict[str, str]:
    """A key for each file: its name without the extension. Characters other than letters, digits, - and _ become _.

    Files with equal keys get a suffix from the digest of their paths, so a key never depends on the order of files.
    """
    plain = {name: re.sub(r"[^\w-]", "_", PurePosixPath(name).stem) for name in names}
    count = Counter(plain.values())
    return {
        name: key if count[key] == 1 else f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, key in plain.items()
    }
