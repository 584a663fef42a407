"""Freshness by key: an artefact is fresh when its recipe holds the key computed now, and its files are there.

The key of a stage is a digest of its resolved parameters, its source code and the contents of its input manifests. Neither file times nor the memory of
Snakemake or DVC decide; `sync` translates the verdict into the only language Snakemake cannot be told to forget, modification times.
"""

import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import FileDigests, digest_json, files_under, sha256_file, write_text
from glassworks.artifacts.manifest import MANIFEST, RECIPE, is_whole, read_recipe
from glassworks.pipeline.closure import Closure
from glassworks.pipeline.stage import PACKAGE, Stage
from glassworks.pipeline.table import Table

LONG_AGO = 946_684_800  # 2000-01-01: the one time of everything fresh


@dataclass(frozen=True)
class Ingredients:
    """What a key is made of."""

    params: str
    code: str
    inputs: dict[str, str]
    files: str | None
    """Digest over the user's folder, for a stage that reads one."""

    @property
    def key(self) -> str:
        return digest_json([self.params, self.code, self.inputs, self.files])[:32]


class Keys:
    """Computes keys; remembers the digests of code and of the user's folders, which several stages share."""

    def __init__(self, table: Table) -> None:
        self.table, self.root = table, table.project.root
        self.closure = Closure((self.root / PACKAGE).parent, self.root / ".work/imports.json")
        self._folders: dict[str, str] = {}
        self._digests = FileDigests(self.root / ".work/file-digests.json")

    def ingredients(self, stage: Stage) -> Ingredients:
        """What the key of `stage` is made of now. The manifests of its inputs must exist."""
        inputs = {
            f"{role}/{Path(file).name}": sha256_file(self.root / file)
            for role, name in stage.inputs.items()
            for file in self.table[name].small_files(stage.reads_recipes)
        }
        return Ingredients(digest_json(stage.params), self._code(stage), inputs, self._folder(stage))

    def _code(self, stage: Stage) -> str:
        """Digest of source code. Comments and formatting count: whether a change matters is for its author to say (`glassworks accept`)."""
        return digest_json([[file, self.closure.digest(file)] for file in self.closure.files(stage.entries)])

    def _folder(self, stage: Stage) -> str | None:
        if stage.local_path is None:
            return None
        if stage.local_path not in self._folders:
            self._folders[stage.local_path] = self._digest_folder(self.root / stage.local_path)
        return self._folders[stage.local_path]

    def _digest_folder(self, given: Path) -> str:
        files = [given] if given.is_file() else [given / name for name in files_under(given)]
        content = [[path.relative_to(given).as_posix(), self._digests.sha256(path)] for path in files if path.is_file()]
        self._digests.save()
        return digest_json(content)

    def fresh(self) -> dict[str, str | None]:
        """For every stage its key where it is fresh, None where it is stale; a stage is stale when an input is."""
        fresh: dict[str, str | None] = {}
        for stage in self.table:
            fresh[stage.name] = None
            if all(fresh[name] for name in stage.inputs.values()):
                key, directory = self.ingredients(stage).key, self.root / stage.directory
                recipe = read_recipe(directory)
                if recipe and recipe.get("key") == key and is_whole(directory):
                    fresh[stage.name] = key
        self.closure.save()
        return fresh


def sync(table: Table) -> dict[str, str | None]:
    """Tell Snakemake what is fresh: called when the Snakefile is parsed. Deletes nothing, since a dry run parses the Snakefile too.

    The manifest, recipe and key file of a fresh stage get one old time, so nothing looks newer than anything. The key file of a stale one, an input of its
    rule, becomes new in time and content (the nonce matters: without it, going back to a value that Snakemake once ran goes unnoticed).
    """
    root, fresh = table.project.root, Keys(table).fresh()
    for stage in table:
        key_file = root / stage.key_file
        key_file.parent.mkdir(parents=True, exist_ok=True)
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


def drop_stale_locks(root: Path) -> Any:
    """Remove the locks of a Snakemake that was killed, unless one is running here.

    Returns the open lock file; it is held, and tells the next caller so, for as long as this process lives.
    """
    (root / ".work").mkdir(exist_ok=True)
    held = (root / ".work/snakemake.lock").open("w")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    shutil.rmtree(root / ".snakemake/locks", ignore_errors=True)
    return held
