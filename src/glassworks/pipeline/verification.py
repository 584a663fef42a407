"""Holding artefacts to their word: digests against the manifest, a second run against the bytes of the first, and an author's vouching."""

import json
import shutil
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import write_json
from glassworks.artifacts.manifest import RECIPE, faults, read_manifest, read_recipe
from glassworks.artifacts.provenance import fingerprint
from glassworks.errors import ArtifactError
from glassworks.pipeline.execution import Runner, recipe, rerun
from glassworks.pipeline.freshness import Keys
from glassworks.pipeline.table import Stage, Table

SHOWN = 5


def check(table: Table, stage: Stage) -> str:
    """Check every file of an artefact against its manifest; raises `ArtifactError` with one line per fault."""
    directory = table.project.root / stage.directory
    found = [line.replace(f"{table.project.root}/", "") for line in faults(directory)]
    if found:
        more = [f"… and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        remedy = (
            f"{stage.name} is not what its manifest says; delete {stage.directory} and run `snakemake {stage.manifest}`"
        )
        raise ArtifactError("\n".join([*found[:SHOWN], *more, remedy]))
    manifest = read_manifest(directory)
    size = sum(entry["size"] for entry in manifest.files.values())
    return f"{stage.name}: {len(manifest.files)} files, {size:,} bytes, every digest is right"


def rerun_and_compare(table: Table, stage: Stage, run: Runner, threads: int) -> str:
    """Run a stage again in a scratch directory and compare bytes; raises `ArtifactError` that names the first difference."""
    root = table.project.root
    directory = root / stage.directory
    check(table, stage)
    scratch = root / ".work" / f"verify-{stage.name}"
    again = rerun(table, stage, run, scratch, threads)
    before, after = read_manifest(directory), read_manifest(again)
    if before == after:
        shutil.rmtree(scratch)
        return f"{stage.name}: run again, every byte is the same ({len(before.files)} files)"
    lines = [
        f"{stage.name}: running it again gives other bytes",
        *_first_difference(directory, again, before.files, after.files),
    ]
    if before.counts != after.counts:
        lines.append(
            f"counts: {json.dumps(before.counts, sort_keys=True)} before, {json.dumps(after.counts, sort_keys=True)} now"
        )
    lines += _environment_differences(read_recipe(directory) or {}, read_recipe(again) or {})
    raise ArtifactError("\n".join([*lines, f"the second result is kept in {again.relative_to(root)}"]))


def accept(table: Table, stage: Stage) -> str:
    """Re-stamp the recipe of an artefact with the key computed now, and say so in the provenance."""
    root = table.project.root
    directory = root / stage.directory
    check(table, stage)
    for upstream in table.inputs(stage):
        read_manifest(root / upstream.directory)
    old, ingredients = read_recipe(directory) or {}, Keys(table).ingredients(stage)
    if old.get("key") == ingredients.key:
        return f"{stage.name}: nothing to accept, it is fresh"
    write_json(directory / RECIPE, {**recipe(table, stage, ingredients), "fingerprint": old.get("fingerprint")})
    file = root / "provenance" / f"{stage.name}.json"
    note = json.loads(file.read_text()) if file.is_file() else {"stage": stage.name}
    note["accepted"] = [*note.get("accepted", []), {"from": old.get("key"), "to": ingredients.key}]
    file.parent.mkdir(exist_ok=True)
    write_json(file, note)
    return f"{stage.name}: accepted as the result of the code and parameters of now"


def _first_difference(one: Path, other: Path, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    for name in sorted(set(before) | set(after)):
        if name not in after:
            return [f"{name}: not made this time"]
        if name not in before:
            return [f"{name}: made only this time"]
        if before[name] != after[name]:
            return [f"{name}: the first file that differs", *_first_tensor(one / name, other / name)]
    return []


def _first_tensor(one: Path, other: Path) -> list[str]:
    if one.suffix != ".safetensors":
        return []
    from safetensors.numpy import load_file

    before, after = load_file(one), load_file(other)
    for name in sorted(set(before) | set(after)):
        if name not in before or name not in after:
            return [f"tensor {name}: in one of the two only"]
        if before[name].shape != after[name].shape:
            return [f"tensor {name}: {before[name].shape} before, {after[name].shape} now"]
        if before[name].tobytes() != after[name].tobytes():
            largest = abs(before[name].astype("float64") - after[name].astype("float64")).max()
            return [f"tensor {name}: the first that differs (largest difference {largest:.3g})"]
    return []


def _environment_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = old.get("fingerprint") or {}, new.get("fingerprint") or fingerprint("native")
    lines = []
    for name in sorted(set(before) | set(after)):
        one, other = before.get(name), after.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            lines += [
                f"environment: {name}.{key}: {one.get(key)} then, {other.get(key)} now"
                for key in sorted(set(one) | set(other))
                if one.get(key) != other.get(key)
            ]
        elif one != other:
            lines.append(f"environment: {name}: {one} then, {other} now")
    if old.get("code") != new.get("code"):
        lines.append("the code has changed since (the recipe holds another code digest)")
    return lines or ["the two environments have the same fingerprint: the stage itself is not deterministic"]
