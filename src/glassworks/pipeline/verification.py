"""Verifies artefacts against their manifests, compares a second run byte by byte, and accepts artefacts after a harmless code change."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import write_json
from glassworks.artifacts.manifest import RECIPE, faults, read_manifest, read_recipe
from glassworks.artifacts.provenance import fingerprint
from glassworks.errors import ArtifactError
from glassworks.pipeline.execution import Runner, recipe, rerun
from glassworks.pipeline.freshness import Keys
from glassworks.pipeline.stage import Stage
from glassworks.pipeline.table import Table

SHOWN = 5

NUMPY_DTYPES = {
    "BOOL": "u1",
    "U8": "u1",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "<u2",
    "F32": "<f4",
    "F64": "<f8",
}
"""numpy types of the safetensors dtypes. BF16 is read as raw bits, since numpy has no type for it."""


def check(table: Table, stage: Stage) -> str:
    """Check every file of an artefact against its manifest; returns a message. Raises `ArtifactError` with one line per fault."""
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
    """Run a stage again in a scratch directory and compare all bytes; returns a message. Raises `ArtifactError` that names the first difference."""
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
    """Replace the key in the recipe of an artefact by the current key, and record this in the provenance; returns a message."""
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
            tensor = first_tensor(one / name, other / name) if name.endswith(".safetensors") else None
            return [f"{name}: the first file that differs", *([tensor] if tensor else [])]
    return []


def first_tensor(one: Path, other: Path) -> str | None:
    """Description of the first tensor, by name, that differs between two safetensors files; None if only the headers differ."""
    before, after = _tensors(one), _tensors(other)
    for name in sorted(set(before) | set(after)):
        if name not in before or name not in after:
            return f"tensor {name}: in one of the two only"
        for part in ("dtype", "shape"):
            if before[name][part] != after[name][part]:
                return f"tensor {name}: {part} {before[name][part]} and {after[name][part]}"
        if before[name]["data"] != after[name]["data"]:
            return f"tensor {name}: the first that differs ({_largest_difference(before[name], after[name])})"
    return None


def _tensors(path: Path) -> dict[str, dict[str, Any]]:
    """dtype, shape and raw bytes of every tensor. Raw bytes, since numpy has no bf16."""
    from safetensors import SafetensorError, deserialize

    try:
        return dict(deserialize(path.read_bytes()))
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not a safetensors file ({error}); delete the folder and make it again") from None


def _largest_difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    import numpy as np

    dtype = one["dtype"]
    if dtype not in NUMPY_DTYPES:
        return f"dtype {dtype}"
    before, after = (np.frombuffer(tensor["data"], NUMPY_DTYPES[dtype]) for tensor in (one, other))
    if dtype == "BF16":  # the upper half of an fp32 number
        before, after = ((half.astype("<u4") << 16).view("<f4") for half in (before, after))
    with np.errstate(invalid="ignore"):  # inf - inf
        return f"largest difference {abs(before.astype('float64') - after.astype('float64')).max():.3g}"


def differing_values(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Differences between two nested dictionaries: the dotted name and both values (None if the name is absent)."""
    for name in sorted(set(one) | set(other)):
        before, after = one.get(name), other.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differing_values(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}", before, after


def _environment_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = old.get("fingerprint") or {}, new.get("fingerprint") or fingerprint("native")
    lines = [f"environment: {name}: {one} then, {other} now" for name, one, other in differing_values(before, after)]
    if old.get("code") != new.get("code"):
        lines.append("the code has changed since (the recipe holds another code digest)")
    return lines or ["the two environments have the same fingerprint: the stage itself is not deterministic"]
