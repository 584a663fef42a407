"""From the file name in a row to the file in the inventory: found, or a reason with the nearest name."""

import posixpath
import re
import unicodedata
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from glassworks.data.fetching.archives import SUFFIXES
from glassworks.data.texts import UnusableText, is_unicode

FEW = 10_000
"""Files among which a similar name is looked for."""


class FileNames:
    """The files of a data set by the names that its tables use.

    Names are relative to the data set's folder, to the folder of their table, or to one other folder: the first row
    whose file is in exactly one of these decides for its table.
    """

    def __init__(self, folder: Path, inventory: Mapping[str, Any], base: str | None = None) -> None:
        """`base` is the folder that the user set, relative to `folder`."""
        self.folder, self.inventory, self.base = folder, inventory, base
        self.bases: dict[str, str] = {}
        """The decided folder of each table's names, by folder of the table."""
        self.changed = 0
        """Names that were found with other slashes or another Unicode form."""
        self._names: dict[str, list[str]] = {}

    def exists(self, given: str, table: str = "") -> bool:
        """Whether a cell names a file, for deciding whether a line is a row."""
        try:
            self.find(given, table)
        except UnusableText:
            return False
        return True

    def find(self, given: Any, table: str = "") -> str:
        """The path in the inventory of a name in a table of the folder `table`. Raises `UnusableText` with the reason."""
        name = self._relative(given)
        for base in self._bases(table):
            for spelling in _spellings(name):
                path = posixpath.normpath(f"{base}/{spelling}") if base else spelling
                if path in self.inventory:
                    self.changed += spelling != name
                    self.bases.setdefault(table, base)
                    return path
        if table not in self.bases and self.base is None and (base := self._other_base(name)) is not None:
            self.bases[table] = base
            return self.find(given, table)
        raise UnusableText(f"there is no file: {name}{self._hint(name)}")

    def _relative(self, given: Any) -> str:
        if not isinstance(given, str) or not given.strip():
            raise UnusableText("no file is named")
        if not is_unicode(given):
            raise UnusableText(f"the file name is not UTF-8: {given!a}")
        if "\0" in given:
            raise UnusableText(f"the file name holds a NUL character: {given!a}")
        name = given if given in self.inventory else given.strip()
        if name.startswith("/"):
            for folder in (self.folder.absolute(), self.folder.resolve()):
                if posixpath.normpath(name).startswith(f"{folder.as_posix()}/"):
                    return posixpath.normpath(name)[len(folder.as_posix()) + 1 :]
            raise UnusableText(f"the file name points outside the folder of the dataset: {name}{self._hint(name)}")
        path = posixpath.normpath(name)
        if path == ".." or path.startswith("../"):
            raise UnusableText(f"the file name points outside the folder of the dataset: {name}{self._hint(name)}")
        return path

    def _bases(self, table: str) -> list[str]:
        if self.base is not None:
            return [self.base]
        if table in self.bases:
            return list(dict.fromkeys([self.bases[table], ""]))
        return list(dict.fromkeys(["", table]))

    def _other_base(self, name: str) -> str | None:
        """The only folder in which a file of this name is."""
        found = {
            path.removesuffix(spelling).rstrip("/")
            for spelling in _spellings(name)
            for path in self._alike(spelling)
            if path.endswith(f"/{spelling}")
        }
        return found.pop() if len(found) == 1 else None

    def _alike(self, name: str) -> list[str]:
        """The files whose name is alike: case, Unicode form, extension and folder aside."""
        if not self._names:
            for path in self.inventory:
                self._names.setdefault(_plain(path), []).append(path)
        return self._names.get(_plain(name), [])

    def _hint(self, name: str) -> str:
        """`; did you mean X?` with the nearest file and the difference."""
        given = unquote(name).replace("\\", "/")
        alike = self._alike(given) or self._alike(f"{given}.x") or self._alike(name)
        if alike:
            near = max(alike, key=lambda path: (_common_end(path, given), path))
            return f"; did you mean {near!r}? ({_difference(name, near)})"
        broken = self.folder / name
        if not name.startswith("/") and broken.is_symlink() and not broken.exists():
            return "; it is a broken link"
        if archives := [path for path in self.inventory if path.lower().endswith(SUFFIXES)][:3]:
            return f"; unpack {', '.join(archives)} where it is"
        close = get_close_matches(name, list(self.inventory), n=1, cutoff=0.8) if len(self.inventory) <= FEW else []
        if close and re.sub(r"\d", "", close[0]) != re.sub(r"\d", "", name):  # another number is another image
            return f"; did you mean {close[0]!r}?"
        return ""


def _spellings(name: str) -> list[str]:
    """A name, and the same name with slashes for backslashes and in the Unicode forms of macOS and others."""
    found = [name]
    if "\\" in name:
        found.append(posixpath.normpath(name.replace("\\", "/")))
    if not name.isascii():
        found += [unicodedata.normalize(form, path) for path in list(found) for form in ("NFC", "NFD")]
    return [path for path in dict.fromkeys(found) if not path.startswith(("../", "/"))]


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(path).stem).casefold()


def _common_end(path: str, name: str) -> int:
    """Equal parts at the end of two paths, extension and case aside."""
    ends = [posixpath.splitext(one)[0].casefold().split("/")[::-1] for one in (path, name)]
    return len(posixpath.commonprefix(ends))


def _difference(name: str, near: str) -> str:
    if "\\" in name:
        return "the name has backslashes"
    if "%" in name and unquote(name) != name:
        return "the name is percent-encoded"
    if name.startswith("/"):
        return "give paths inside the folder"
    if PurePosixPath(name).name == PurePosixPath(near).name:
        return "another folder"
    if PurePosixPath(name).name.casefold() == PurePosixPath(near).name.casefold():
        return "upper and lower case differ"
    if PurePosixPath(name).suffix == "":
        return "the name has no extension"
    if PurePosixPath(name).stem == PurePosixPath(near).stem:
        return "another extension"
    return "the spelling differs"
