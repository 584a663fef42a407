"""`glassworks explain`: what a stage reads and writes, why it is stale, and what its last run cost.

A recipe has one digest for all source files. Which of them changed is found by the commit of the last run, if git has it: the digest of the files at
that commit says whether they are those that ran.
"""

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import digest_json
from glassworks.artifacts.manifest import is_whole, read_recipe
from glassworks.errors import ConfigError
from glassworks.pipeline.closure import Closure
from glassworks.pipeline.freshness import Keys
from glassworks.pipeline.stage import PACKAGE, Stage
from glassworks.pipeline.table import Table
from glassworks.project.listing import States
from glassworks.report.view import timing
from glassworks.report.wording import duration, size

ABSENT = "(not there)"


def explanation(table: Table, stage: Stage) -> dict[str, Any]:
    """What is known about a stage, as JSON."""
    states = States(table)
    cost = timing(table.project.root, stage)
    return {
        "stage": stage.name,
        "state": states.of(stage),
        "reads": {
            **{role: table[name].directory for role, name in stage.inputs.items()},
            **({"your files": stage.local_path} if stage.local_path else {}),
        },
        "writes": stage.directory,
        "source_files": len(Keys(table).closure.files(stage.entries)),
        "reasons": list(_reasons(states, stage)),
        "last_run": {key: cost.get(key) for key in ("started", "seconds", "peak_memory_bytes", "host", "git_revision")}
        if cost["made"] == "here"
        else None,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The explanation for people."""
    shown = [f"{found['stage']}: {found['state']}"]
    shown += [f"  reads   {path} ({role})" for role, path in found["reads"].items()]
    shown += [f"  writes  {found['writes']}", f"  code    {found['source_files']} source files"]
    shown += [f"  why     {reason}" for reason in found["reasons"]]
    run = found["last_run"]
    if run:
        seconds, memory = run["seconds"], run["peak_memory_bytes"]
        cost = [duration(seconds)] if seconds is not None else []
        cost += [f"{size(memory)} of memory at most"] if memory is not None else []
        cost += [f"on {run['host']}", str(run["started"])]
        shown.append(f"  cost    {', '.join(cost)}")
    elif found["state"] != "missing":
        shown.append("  cost    not recorded here: the artefact is from another machine or time")
    return shown


def _reasons(states: States, stage: Stage) -> Iterator[str]:
    """Why a stage is not fresh: its artefact, its inputs, its settings, its source code, the user's files."""
    table, directory = states.table, states.root / stage.directory
    if states.fresh[stage.name]:
        return
    recipe = read_recipe(directory)
    if recipe is None:
        yield f"{stage.directory} is not made yet"
    elif not is_whole(directory):
        yield f"{stage.directory} lacks files of its manifest, or they have other sizes"
    stale = [name for name in dict.fromkeys(stage.inputs.values()) if not states.fresh[name]]
    for name in stale:
        yield f"its input {name} is {states.of(table[name])}; `glassworks explain {name}` says why"
    if recipe is None:
        return
    for path, (before, now) in _differences(recipe.get("params", {}), stage.params, "").items():
        yield f"the setting {path} was {before}, and is {now}"
    keys = Keys(table)
    if recipe.get("code") != _digest(keys.closure, stage):
        yield from _changed_code(states.root, keys.closure, stage, recipe)
    if any(not (states.root / table[name].manifest).is_file() for name in stage.inputs.values()):
        return
    now = keys.ingredients(stage)
    inputs = recipe.get("inputs", {})
    for name in sorted(inputs.keys() | now.inputs.keys()):
        if inputs.get(name) != now.inputs.get(name):
            yield f"the content of its input {name} changed"
    unchanged = inputs == now.inputs and recipe.get("code") == now.code and recipe.get("params") == stage.params
    if stage.local_path and unchanged and recipe.get("key") != now.key:
        yield f"the files in {stage.local_path} changed"


def _differences(before: Any, now: Any, path: str) -> dict[str, tuple[Any, Any]]:
    """The old and the new value of every setting that differs, by key path."""
    if before == now:
        return {}
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return {path: (before, now)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(before.keys() | now.keys()):
        found |= _differences(before.get(key, ABSENT), now.get(key, ABSENT), f"{path}.{key}".removeprefix("."))
    return found


def _digest(closure: Closure, stage: Stage) -> str:
    return digest_json(list(map(list, _files(closure, stage).items())))


def _files(closure: Closure, stage: Stage) -> dict[str, str]:
    """The digest of each source file of a stage."""
    return {file: closure.digest(file) for file in closure.files(stage.entries)}


def _changed_code(root: Path, closure: Closure, stage: Stage, recipe: dict[str, Any]) -> Iterator[str]:
    """The source files that differ from those at the commit of the last run."""
    revision = str(timing(root, stage).get("git_revision") or "")
    commit = revision.removesuffix("+changes")
    with tempfile.TemporaryDirectory() as folder:
        then = _at(root, commit, Path(folder), stage) if commit else None
    if then is None:
        yield "source code changed; which files is not known, since the commit of the last run is not in git"
        return
    exact = digest_json(list(map(list, then.items()))) == recipe.get("code")
    now = _files(closure, stage)
    for file in sorted(then.keys() | now.keys()):
        if then.get(file) != now.get(file):
            word = "is new" if file not in then else "is not read any more" if file not in now else "changed"
            yield f"the source file {PACKAGE}/{file} {word} since {commit[:10]}"
    if not exact:
        yield f"the source code that ran was not exactly that of {commit[:10]}: it had uncommitted changes, or was accepted later"


def _at(root: Path, commit: str, folder: Path, stage: Stage) -> dict[str, str] | None:
    """The digest of each source file of a stage at a commit; None if git does not have it."""
    try:
        command = ["git", "archive", "--format=tar", commit, PACKAGE]
        packed = subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=60).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as file:
            file.extractall(folder, filter="data")
        return _files(Closure((folder / PACKAGE).parent), stage)
    except (OSError, subprocess.SubprocessError, tarfile.TarError, ConfigError):
        return None
