"""`glassworks verify FOLDER`: checks a published folder, and in the project compares it with a second training."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import sha256_file
from glassworks.artifacts.manifest import RECIPE, read_manifest, read_recipe
from glassworks.errors import ArtifactError, ConfigError
from glassworks.pipeline.execution import Runner, check_inputs, rerun
from glassworks.pipeline.freshness import Keys
from glassworks.pipeline.stage import Stage
from glassworks.pipeline.table import Table
from glassworks.pipeline.verification import differing_values
from glassworks.publishing.record import RECORD, Record, describe, faults, read_record
from glassworks.report.wording import size

SHOWN = 5
TRAINING = "training"


def is_published(folder: Path) -> bool:
    """Whether a folder is one of `glassworks publish`."""
    return (folder / RECORD).is_file()


def check(folder: Path) -> str:
    """Check every file of a published folder against its record; returns a message. Raises `ArtifactError` with one line per fault."""
    record = read_record(folder)
    found = list(faults(folder, record))
    if found:
        more = [f"… and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise ArtifactError(
            "\n".join([*found[:SHOWN], *more, f"{folder} is not as it was published; download it again"])
        )
    total = size(sum(entry.size for entry in record.files.values()))
    return (
        f"{folder}: {record.experiment}, {len(record.files)} files, {total}, every digest is right; "
        f"sha256 of {RECORD}: {sha256_file(folder / RECORD)}"
    )


def compare_with_project(table: Table, folder: Path) -> str:
    """A line about the model of the same experiment in the project."""
    record = read_record(folder)
    stage = table.stages.get(record.stage)
    if stage is None:
        return f"{folder}: this project has no experiment {record.experiment}, so only digests were checked"
    file = table.project.root / stage.manifest
    if not file.is_file():
        return f"{folder}: {stage.directory} is not trained here; `snakemake {stage.manifest}` trains it"
    digest = sha256_file(file)
    if digest == record.manifest:
        return f"{folder}: the trained model is that of {stage.directory}, byte for byte"
    return f"{folder}: {stage.directory} is another training: its manifest is {digest[:12]}, the folder's {record.manifest[:12]}"


def rebuild_and_compare(table: Table, folder: Path, run: Runner, threads: int) -> Iterator[str]:
    """Train the model again with the recorded settings, compare it, then write the folder again and compare that; yields messages.

    Raises `ArtifactError` that names the first difference, and `ConfigError` for an experiment that the project does not have.
    """
    record = read_record(folder)
    stage = _as_recorded(table, folder, record)
    scratch = table.project.root / ".work" / f"verify-{stage.name}"
    made = rerun(table, stage, run, scratch, threads)
    lines = list(_differences(folder, made))
    if lines:
        kept = made.relative_to(table.project.root)
        raise ArtifactError(
            "\n".join([f"{folder}: training again gives other bytes", *lines, f"the second model is kept in {kept}"])
        )
    shutil.rmtree(scratch)
    yield f"{folder}: trained again, every byte of the model is the same"
    here = table.project.root / stage.manifest
    if not here.is_file() or sha256_file(here) != record.manifest:
        yield f"{folder}: the model in {stage.directory} is not this one, so the folder was not written again"
        return
    yield _written_again(table, folder, record, scratch)


def _as_recorded(table: Table, folder: Path, record: Record) -> Stage:
    """The training stage with the recorded settings. Raises unless the project has it and its inputs have the recorded content."""
    stage = table.stages.get(record.stage)
    if stage is None:
        raise ConfigError(f"{folder}: this project has no experiment {record.experiment}, so it cannot be trained here")
    recipe = _recipe(folder)
    check_inputs(table, stage)
    inputs, now = recipe["inputs"], Keys(table).ingredients(stage).inputs
    for name in sorted(inputs.keys() | now.keys()):
        if inputs.get(name) != now.get(name):
            raise ArtifactError(
                f"{folder}: its input {name} has another content in this project; check out the commit in README.md, and run `snakemake {stage.manifest}`"
            )
    return replace(stage, params=recipe["params"])


def _recipe(folder: Path) -> dict[str, Any]:
    recipe = read_recipe(folder / TRAINING)
    if recipe is None or not all(isinstance(recipe.get(key), dict) for key in ("params", "inputs")):
        raise ArtifactError(f"{folder / TRAINING / RECIPE}: not the recipe of a training; download it again")
    return recipe


def _differences(folder: Path, made: Path) -> Iterator[str]:
    """The first file of the second model that differs, and the differences between the environments."""
    before, after = read_manifest(folder / TRAINING).files, read_manifest(made).files
    if before == after:
        return
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    yield f"{names[0]}: the first file that differs"
    old, new = _recipe(folder), read_recipe(made) or {}
    for name, one, other in differing_values(old.get("fingerprint") or {}, new.get("fingerprint") or {}):
        yield f"environment: {name}: {one} then, {other} now"
    if old.get("code") != new.get("code"):
        yield "the code has changed since (the recipe holds another code digest)"


def _written_again(table: Table, folder: Path, record: Record, scratch: Path) -> str:
    from glassworks.publishing.folder import again

    try:
        again(table, record, scratch)
        files = describe(scratch)
        for name in sorted(files.keys() | record.files.keys()):
            entry = record.files.get(name)
            if entry is None or files.get(name) != {"sha256": entry.sha256, "size": entry.size}:
                raise ArtifactError(f"{folder / name}: writing the folder again gives another content of this file")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return f"{folder}: written again, every byte is the same ({len(record.files)} files)"
