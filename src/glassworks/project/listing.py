"""`glassworks ls`: the data sets, experiments and models of a project with their state, headline scores and sizes.

Only small files are read: manifests, metrics.json and labels.json.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glassworks.artifacts.manifest import Manifest, read_manifest, read_recipe
from glassworks.config.datasets import SPLITS
from glassworks.config.project import evaluations_of
from glassworks.errors import ArtifactError
from glassworks.evaluation.labels import LABELS, METRICS, look_up
from glassworks.pipeline.freshness import Keys
from glassworks.pipeline.stage import Stage, stage_name
from glassworks.pipeline.table import Table
from glassworks.report.wording import magnitude, size

HEADLINES = 2
"""Scores of an evaluation that a line shows; --json has all of its tiles."""


class States:
    """The state of each stage: fresh, stale or missing."""

    def __init__(self, table: Table, keys: Keys | None = None) -> None:
        self.table, self.root = table, table.project.root
        self.fresh = (keys or Keys(table)).fresh()

    def of(self, stage: Stage) -> str:
        """The state of a stage. A stale artefact is there and may be read."""
        if self.fresh[stage.name]:
            return "fresh"
        return "stale" if read_recipe(self.root / stage.directory) is not None else "missing"

    def all_of(self, stages: list[Stage]) -> str:
        """The state of several stages: that of the worst one."""
        return max(map(self.of, stages), key=["fresh", "stale", "missing"].index)

    def manifest(self, stage: Stage) -> Manifest | None:
        """The manifest of an artefact; None if there is none."""
        try:
            return read_manifest(self.root / stage.directory)
        except ArtifactError:
            return None


def listing(table: Table) -> dict[str, list[dict[str, Any]]]:
    """What the project has, as JSON: data sets, experiments, models."""
    states = States(table)
    return {
        "datasets": [_dataset(states, name) for name in table.project.params.datasets],
        "experiments": [_experiment(states, name) for name in table.project.experiments],
        "models": [_model(states, stage) for stage in table if stage.kind in ("train", "weights")],
    }


def lines(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The listing for people, in columns."""
    datasets = [
        (one["name"], one["state"], one["source"], _size(one), _split_words(one["samples"]))
        for one in found["datasets"]
    ]
    experiments = [
        (one["name"], one["state"], one["task"], ", ".join(one["datasets"]), _headlines(one["scores"]))
        for one in found["experiments"]
    ]
    models = [
        (one["name"], one["state"], one["kind"], _size(one), _parameters(one["parameters"])) for one in found["models"]
    ]
    sections = (("data sets", datasets), ("experiments", experiments), ("models", models))
    shown: list[str] = []
    for title, rows in sections:
        shown += [title, *(f"  {line}" for line in columns(rows))] if rows else []
    return shown


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows in columns of equal width; the last one has any."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _dataset(states: States, name: str) -> dict[str, Any]:
    records, shards = (states.table[stage_name(kind, name)] for kind in ("records", "shards"))
    manifest = states.manifest(shards) or states.manifest(records)
    samples = manifest.counts.get("samples", {}) if manifest else {}
    return {
        "name": name,
        "state": states.of(shards),
        "source": states.table.project.params.datasets[name].source,
        "samples": samples if isinstance(samples, dict) else {"all": samples},
        "bytes": _bytes(states.manifest(shards)),
    }


def _experiment(states: States, name: str) -> dict[str, Any]:
    table, experiment = states.table, states.table.project.experiments[name]
    evaluations = {other: table[stage_name("evaluate", name, other)] for other in evaluations_of(experiment)}
    return {
        "name": name,
        "state": states.all_of([table[stage_name("train", name)], *evaluations.values()]),
        "task": experiment.task,
        "datasets": list(experiment.data.datasets),
        "scores": {other: scores(states.root / stage.directory) for other, stage in evaluations.items()},
    }


def _model(states: States, stage: Stage) -> dict[str, Any]:
    manifest = states.manifest(stage)
    return {
        "name": stage.directory,
        "state": states.of(stage),
        "kind": "trained" if stage.kind == "train" else "published",
        "parameters": manifest.counts.get("parameters") if manifest else None,
        "bytes": _bytes(manifest),
    }


def scores(directory: Path) -> list[dict[str, Any]]:
    """The tiles of an evaluation: title, value and unit, scaled as the report prints them; empty without results."""
    try:
        metrics, labels = (json.loads((directory / name).read_text()) for name in (METRICS, LABELS))
    except (OSError, ValueError):
        return []
    found = []
    for tile in labels.get("tiles", []):
        value = look_up(metrics, tile["value"])
        value = value["value"] if isinstance(value, dict) else value
        if value is not None:
            scaled = round(value * tile.get("scale", 1.0), tile.get("digits", 3))
            found.append({"title": tile["title"], "value": scaled, "unit": tile.get("unit", "")})
    return found


def _bytes(manifest: Manifest | None) -> int | None:
    return sum(entry["size"] for entry in manifest.files.values()) if manifest else None


def _size(one: dict[str, Any]) -> str:
    return "" if one["bytes"] is None else size(one["bytes"])


def _split_words(samples: dict[str, int]) -> str:
    return ", ".join(f"{split} {samples[split]:,}" for split in (*SPLITS, "all") if split in samples)


def _parameters(count: int | None) -> str:
    return "" if count is None else f"{magnitude(count)} parameters"


def _headlines(found: dict[str, list[dict[str, Any]]]) -> str:
    shown = []
    for evaluation, tiles in found.items():
        values = ", ".join(f"{tile['title']} {tile['value']:g}{tile['unit']}" for tile in tiles[:HEADLINES])
        shown += [f"{evaluation}: {values}"] if values else []
    return "; ".join(shown)
