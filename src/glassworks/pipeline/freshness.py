"""Freshness by key: an artefact is fresh if its recipe holds the current key and its files are complete.

The key of a stage is a digest of its resolved parameters, its source code and the contents of its input manifests. File times and the records of
Snakemake and DVC do not matter. `sync` passes the result to Snakemake as modification times, which Snakemake always considers.
"""

import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import FileDigests, digest_json, sha256_file, write_json, write_text
from glassworks.artifacts.manifest import MANIFEST, RECIPE, Manifest, is_whole, read_manifest, read_recipe
from glassworks.config.user_files import files_under, is_utf8
from glassworks.errors import ArtifactError
from glassworks.pipeline.closure import Closure
from glassworks.pipeline.stage import PACKAGE, Stage
from glassworks.pipeline.table import Table

LONG_AGO = 946_684_800  # 2000-01-01: the modification time of all fresh files


@dataclass(frozen=True)
class Ingredients:
    """The digests that make up a key."""

    params: str
    code: str
    inputs: dict[str, str]
    files: str | None
    """Digest of the user's folder; None if the stage reads none."""

    @property
    def key(self) -> str:
        return digest_json([self.params, self.code, self.inputs, self.files])[:32]


class Keys:
    """Computes the keys of stages. Caches the digests of code and of the user's folders, which several stages share."""

    def __init__(self, table: Table, digests: FileDigests | None = None) -> None:
        """With `digests`, which remember the user's files in memory, nothing is written: neither these nor the imports."""
        self.table, self.root, self._writes = table, table.project.root, digests is None
        self.closure = Closure((self.root / PACKAGE).parent, self.root / ".work/imports.json")
        self._folders: dict[str, str] = {}
        self._digests = digests or file_digests(self.root)

    def ingredients(self, stage: Stage) -> Ingredients:
        """The current ingredients of the key of `stage`. The manifests of its inputs must exist."""
        inputs = {
            f"{role}/{Path(file).name}": sha256_file(self.root / file)
            for role, name in stage.inputs.items()
            for file in self.table[name].small_files(stage.reads_recipes)
        }
        return Ingredients(digest_json(stage.params), self._code(stage), inputs, self._folder(stage))

    def _code(self, stage: Stage) -> str:
        """Digest of the source code. Comments and formatting count; the author accepts a harmless change with `glassworks accept`."""
        return digest_json([[file, self.closure.digest(file)] for file in self.closure.files(stage.entries)])

    def _folder(self, stage: Stage) -> str | None:
        if stage.local_path is None:
            return None
        if stage.local_path not in self._folders:
            self._folders[stage.local_path] = self._digest_folder(self.root / stage.local_path)
        return self._folders[stage.local_path]

    def _digest_folder(self, given: Path) -> str:
        files = [given] if given.is_file() else [given / name for name in files_under(given) if is_utf8(name)]
        content = [[path.relative_to(given).as_posix(), self._digests.sha256(path)] for path in files if path.is_file()]
        if self._writes:
            self._digests.save()
        return digest_json(content)

    def fresh(self) -> dict[str, str | None]:
        """The key of every fresh stage, None for every stale stage. A stage with a stale input is stale."""
        fresh: dict[str, str | None] = {}
        for stage in self.table:
            fresh[stage.name] = None
            if all(fresh[name] for name in stage.inputs.values()):
                key, directory = self.ingredients(stage).key, self.root / stage.directory
                recipe = read_recipe(directory)
                if recipe and recipe.get("key") == key and is_whole(directory):
                    fresh[stage.name] = key
        if self._writes:
            self.closure.save()
        return fresh


def file_digests(root: Path) -> FileDigests:
    """The digests of the user's files that earlier commands have taken."""
    return FileDigests(root / ".work/file-digests.json")


def sync(table: Table) -> dict[str, str | None]:
    """Set file times so that Snakemake runs exactly the stale stages; returns `Keys.fresh`. Called when the Snakefile is parsed.

    Copies the manifests of stale stages for `restore_unchanged`.

    Deletes nothing, since a dry run parses the Snakefile, too. The manifest, recipe and key file of a fresh stage get the same old time, so that no
    file looks newer than another. The key file of a stale stage, an input of its rule, gets a new time and new content. The nonce in the key file is
    needed: without the nonce, Snakemake would miss a return to a value that it ran before.
    """
    root, fresh = table.project.root, Keys(table).fresh()
    for stage in table:
        key_file = root / stage.key_file
        key_file.parent.mkdir(parents=True, exist_ok=True)
        _keep_manifest(root, stage, keep=not fresh[stage.name])
        if key := fresh[stage.name]:
            content = json.dumps({"fresh": key})
            if not key_file.exists() or key_file.read_text() != content:
                write_text(key_file, content)
            for path in (key_file, root / stage.directory / MANIFEST, root / stage.directory / RECIPE):
                if path.stat().st_mtime != LONG_AGO:
                    os.utime(path, (LONG_AGO, LONG_AGO))
        else:
            write_text(key_file, json.dumps({"stale_since": time.time_ns()}))
    return fresh


def _keep_manifest(root: Path, stage: Stage, keep: bool) -> None:
    """Copy the manifest of an artefact, since Snakemake deletes it before it runs the stage. The copy of a deleted manifest stays."""
    copy, directory = root / stage.kept_manifest, root / stage.directory
    if not keep:
        copy.unlink(missing_ok=True)
    elif is_whole(directory) and (recipe := read_recipe(directory)):
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_json(copy, {"key": recipe.get("key"), "manifest": read_manifest(directory).as_json()})


def forget_manifests(table: Table) -> None:
    """Remove the copies, so that every stage that is started runs."""
    for stage in table:
        _keep_manifest(table.project.root, stage, keep=False)


def restore_unchanged(table: Table, stage: Stage) -> bool:
    """Put back the manifest that Snakemake deleted, if the artefact is fresh for the current key; returns whether it is.

    A stage becomes stale with its inputs. If these are made again with the same content, its key is the old one, and nothing is to be done.
    """
    root = table.project.root
    copy, directory = root / stage.kept_manifest, root / stage.directory
    try:
        kept, recipe = json.loads(copy.read_text()), read_recipe(directory)
        manifest = Manifest(kept["manifest"]["files"], kept["manifest"]["counts"])
        there = is_whole(directory, manifest) and (
            not (directory / MANIFEST).exists() or read_manifest(directory) == manifest
        )
        key = Keys(table).ingredients(stage).key
    except (OSError, ValueError, KeyError, TypeError, ArtifactError):
        return False
    if not (there and recipe and kept["key"] == recipe.get("key") == key):
        return False
    write_json(directory / MANIFEST, manifest.as_json())
    return True


def drop_stale_locks(root: Path) -> Any:
    """Remove the locks of a killed Snakemake, unless another Snakemake is running in this project.

    Returns the open lock file, or None if another process holds it. This process holds the lock until it exits.
    """
    (root / ".work").mkdir(exist_ok=True)
    held = (root / ".work/snakemake.lock").open("w")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    shutil.rmtree(root / ".snakemake/locks", ignore_errors=True)
    return held
