"""Atomic publication: one rename replaces the old directory by the finished one, so no reader sees a partial artefact."""

import errno
import shutil
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import disk_errors, flush_to_disk, write_json
from glassworks.artifacts.manifest import MANIFEST, RECIPE, Manifest, describe
from glassworks.watchdog import beat


def seal(staged: Path, counts: dict[str, Any], recipe: dict[str, Any]) -> Manifest:
    """Flush every file of `staged` to disk, then write the recipe and, last, the manifest; returns the manifest."""
    with disk_errors(staged):
        for path in sorted(staged.rglob("*")):
            flush_to_disk(path)
        manifest = describe(staged, counts)
        write_json(staged / RECIPE, recipe)
        write_json(staged / MANIFEST, manifest.as_json())
        flush_to_disk(staged)
    return manifest


def publish(staged: Path, target: Path, trash: Path) -> None:
    """Rename the sealed directory `staged` to `target`. An existing `target` is first renamed to `trash`, then removed.

    A kill between the two renames leaves no directory at `target`. The stage is then stale, and its next run continues from its work directory.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if _device(staged) != _device(target.parent):  # data/ may be a link to another disk: copy beside the target first
        beside = target.with_name(f".{target.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        with disk_errors(beside):
            shutil.copytree(staged, beside, copy_function=_copy)
            for path in beside.rglob("*"):
                flush_to_disk(path)
        staged = beside
    if target.exists() or target.is_symlink():
        _set_aside(target, trash)
    staged.rename(target)
    flush_to_disk(target.parent)
    shutil.rmtree(trash, ignore_errors=True)


def _set_aside(target: Path, trash: Path) -> None:
    shutil.rmtree(trash, ignore_errors=True)
    trash.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.rename(trash)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.old")
        shutil.rmtree(beside, ignore_errors=True)
        target.rename(beside)
        shutil.rmtree(beside)


def _copy(source: str, target: str) -> None:
    shutil.copy2(source, target)
    beat()


def _device(path: Path) -> int:
    return path.stat().st_dev
