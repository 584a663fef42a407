"""The artefacts that a trained model was made from, found by the digests in its recipe and not by today's configuration."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from glassworks.artifacts.digests import sha256_file
from glassworks.artifacts.manifest import MANIFEST, Manifest, read_manifest, read_recipe
from glassworks.errors import ArtifactError
from glassworks.pipeline.stage import Stage
from glassworks.pipeline.table import Table


@dataclass(frozen=True)
class Made:
    """An artefact with its manifest and its recipe."""

    stage: str
    directory: str
    """Relative to the project."""
    digest: str
    """sha256 of its manifest."""
    manifest: Manifest
    recipe: dict[str, Any]

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.recipe.get("params") or {})

    @property
    def inputs(self) -> dict[str, str]:
        """The digest of the manifest of each input, by role."""
        found = dict(self.recipe.get("inputs") or {})
        suffix = f"/{MANIFEST}"
        return {name.removesuffix(suffix): digest for name, digest in found.items() if name.endswith(suffix)}


def read_made(table: Table, stage: Stage) -> Made:
    """The artefact of a stage. Raises `ArtifactError` if it or its recipe is missing; the message names the command that makes it."""
    folder = table.project.root / stage.directory
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(f"{stage.directory}: not made yet; make it with `snakemake {stage.manifest}`")
    recipe = read_recipe(folder)
    if recipe is None:
        raise ArtifactError(f"{stage.directory}: no readable recipe; delete it and run `snakemake {stage.manifest}`")
    return Made(stage.name, stage.directory, sha256_file(folder / MANIFEST), read_manifest(folder), recipe)


def lineage(table: Table, artefacts: list[Made]) -> dict[str, Made]:
    """Everything that the artefacts were made from, by stage, inputs first. The artefacts themselves are left out.

    Raises `ArtifactError` for an input that the project no longer has.
    """
    stages: dict[str, list[Stage]] = {}
    for stage in table:
        file = table.project.root / stage.manifest
        if file.is_file():
            stages.setdefault(sha256_file(file), []).append(stage)
    found: dict[str, Made] = {}
    own = {made.stage for made in artefacts}

    def add(made: Made, last: Made) -> None:
        for stage in _inputs(table, made, stages, f"snakemake {last.directory}/{MANIFEST}"):
            if stage.name not in found and stage.name not in own:
                read = read_made(table, stage)
                add(read, last)
                found[stage.name] = read

    for made in artefacts:
        add(made, made)
    return found


def _inputs(table: Table, made: Made, stages: dict[str, list[Stage]], remedy: str) -> Iterator[Stage]:
    for role, digest in made.inputs.items():
        candidates = stages.get(digest)
        if not candidates:
            raise ArtifactError(
                f"{made.directory}: made from {role} with the manifest {digest[:12]}, which this project no longer has; "
                f"run `{remedy}`"
            )
        wired = table[made.stage].inputs.get(role)
        yield next((stage for stage in candidates if stage.name == wired), candidates[0])
