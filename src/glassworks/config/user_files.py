"""The files of a user's folder: one walk and one rule for litter, for inventories, keys, archives and tars.

Litter is what file managers, editors and version control leave behind. No row names it, so it changes nothing.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from glassworks.errors import DataError

LITTER_NAMES = (
    *(".DS_Store", "._*", "__MACOSX", ".AppleDouble", ".Spotlight-V100", ".Trashes", ".Trash-*", ".fseventsd"),
    *(".TemporaryItems", ".DocumentRevisions-V100", ".apdisk", ".localized", "Icon\r", "Thumbs.db", "thumbs.db"),
    *("ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "Desktop.ini", "$RECYCLE.BIN", "System Volume Information"),
    *("@eaDir", "#recycle", ".directory", ".nfs*", ".fuse_hidden*", ".#*", "#*#", "*~", ".*.sw?", ".~lock.*#", "~$*"),
    *(".git", ".gitignore", ".gitattributes", ".gitkeep", ".hg", ".svn", ".ipynb_checkpoints", "__pycache__"),
    *(".idea", ".vscode", ".cache", ".dropbox", ".dropbox.attr", ".sync", ".stfolder"),
)
"""Names of litter, files and folders, as patterns with * and ?. .dvcignore lists them, but for version control, which DVC knows."""


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\*", ".*").replace(r"\?", ".")


_LITTER = re.compile("|".join(_pattern(name) for name in LITTER_NAMES), re.DOTALL)


def is_litter(path: str) -> bool:
    """Whether a path, relative and with slashes, is litter or lies in a folder that is."""
    return any(_LITTER.fullmatch(part) for part in PurePosixPath(path).parts)


def files_under(folder: Path) -> list[str]:
    """Sorted paths of the files under `folder`, relative to it, without litter.

    Linked folders are followed wherever they are; a link to a folder that it lies in is not. A broken link counts as a
    file. A name that is not UTF-8 holds surrogates (`os.fsdecode`).
    """
    return sorted(_walk(folder, "", (os.path.realpath(folder),)))


def is_utf8(name: str) -> bool:
    """Whether a file name can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(folder: Path, prefix: str, ancestors: tuple[str, ...]) -> Iterator[str]:
    try:
        with os.scandir(folder / prefix) as found:
            entries = [(entry.name, entry.is_dir(), entry.is_symlink()) for entry in found]
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{folder / prefix}: the folder cannot be read ({error.strerror})") from None
    for name, is_folder, is_link in entries:
        if _LITTER.fullmatch(name):
            continue
        path = f"{prefix}{name}"
        if not is_folder:
            yield path
            continue
        real = os.path.realpath(folder / path) if is_link else f"{ancestors[-1]}/{name}"
        if real not in ancestors:
            yield from _walk(folder, f"{path}/", (*ancestors, real))
