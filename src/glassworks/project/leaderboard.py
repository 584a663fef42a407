"""`glassworks leaderboard`: the scores of each evaluation of a trained model, with what made it.

A row can be checked: the command of its stage, run on the same commit and the same kind of CPU, gives weights with the same sha256.
"""

import json
from pathlib import Path
from typing import NamedTuple

from glassworks.artifacts.manifest import Manifest, read_recipe
from glassworks.artifacts.provenance import note_of
from glassworks.config.project import evaluations_of
from glassworks.evaluation.labels import LABELS, METRICS, look_up
from glassworks.models.saving import WEIGHTS
from glassworks.pipeline.stage import stage_name
from glassworks.pipeline.table import Table
from glassworks.project.listing import States, columns

TITLE = "# Leaderboard"
COMMAND = "glassworks leaderboard --write FILE"
SHOWN = 16
"""Digits of a digest in the table; --json has all."""


class Row(NamedTuple):
    """A score of an evaluation, and what made it."""

    experiment: str
    evaluation: str
    score: str
    """Its name."""
    value: float
    """As the report prints it, such as percent."""
    low: float | None
    """Ends of the 95 % interval; None for a score without one."""
    high: float | None
    unit: str
    digits: int
    seconds: float | None
    """Of the training; None where it was made elsewhere."""
    cores: int | None
    commit: str
    """Of the training; empty where it was made elsewhere."""
    sha256: str
    """Of the weights."""


def leaderboard(table: Table) -> tuple[list[Row], list[str]]:
    """The scores of all fresh evaluations in the order of params.yaml, and the evaluations that are left out, with their states."""
    states, rows, left = States(table), list[Row](), list[str]()
    for name, experiment in table.project.experiments.items():
        train = table[stage_name("train", name)]
        for other in evaluations_of(experiment):
            stage = table[stage_name("evaluate", name, other)]
            state = states.all_of([train, stage])
            if state == "fresh":
                made = states.manifest(train)
                rows += _rows(table.project.root, name, other, stage.directory, train.directory, made)
            else:
                left.append(f"{name}, {other} ({state})")
    return rows, left


def page(rows: list[Row]) -> str:
    """The rows as a Markdown page."""
    lines = [
        TITLE,
        "",
        "The scores that the report shows first, with their 95 % intervals over the test split, and the training behind them. Written by",
        f"`{COMMAND}` from the artefacts of `make all`. `glassworks verify --rerun train-EXPERIMENT` checks a row: it trains again and compares every byte.",
        "The bytes of the weights are those of one kind of CPU, unless `determinism.cpu_isa` is `avx2`.",
        "",
        "| experiment | evaluation | score | | 95 % interval | seconds | cores | commit | sha256 of the weights |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join([*lines, ""])


def lines(rows: list[Row]) -> list[str]:
    """The rows for people, in columns."""
    return columns([tuple(_cells(row)) for row in rows]) if rows else []


def _cells(row: Row) -> list[str]:
    interval = "" if row.low is None or row.high is None else f"{_number(row, row.low)} … {_number(row, row.high)}"
    return [
        row.experiment,
        row.evaluation,
        row.score,
        _number(row, row.value) + row.unit,
        interval,
        "" if row.seconds is None else f"{row.seconds:,.0f}",
        "" if row.cores is None else str(row.cores),
        row.commit[:SHOWN],
        row.sha256[:SHOWN],
    ]


def _number(row: Row, value: float) -> str:
    return f"{value:,.{row.digits}f}"


def _rows(root: Path, name: str, evaluation: str, directory: str, train: str, made: Manifest | None) -> list[Row]:
    """The scores that the report shows first, its tiles."""
    metrics, labels = (json.loads((root / directory / file).read_text()) for file in (METRICS, LABELS))
    recipe = read_recipe(root / train) or {}
    record = note_of(root, stage_name("train", name), recipe.get("key"))
    files = made.files if made else {}
    weights = next((entry["sha256"] for file, entry in files.items() if Path(file).name == WEIGHTS), "")
    weights = weights or next((entry["sha256"] for file, entry in files.items() if file.endswith(".safetensors")), "")
    rows = []
    for tile in labels.get("tiles", []):
        found = look_up(metrics, tile["value"])
        if found is None:
            continue
        scale = tile.get("scale", 1.0)
        value, low, high = (
            (found["value"], found.get("low"), found.get("high")) if isinstance(found, dict) else (found, None, None)
        )
        rows.append(
            Row(
                name,
                evaluation,
                tile["title"],
                value * scale,
                None if low is None else low * scale,
                None if high is None else high * scale,
                tile.get("unit", ""),
                tile.get("digits", 3),
                record.get("seconds"),
                record.get("cores"),
                record.get("git_revision") or "",
                weights,
            )
        )
    return rows
