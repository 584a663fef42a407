"""results/report.html: the report with the timings of this machine in it.

The artefact results/report/report.html is the same bytes wherever it is made; what varies between equal runs is kept in
provenance/STAGE.json and shown here only. Nothing depends on this file, and it is made again whenever it is asked for.
"""

import json
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import write_text
from glassworks.artifacts.manifest import read_recipe
from glassworks.errors import ArtifactError
from glassworks.pipeline.stage import Stage
from glassworks.pipeline.table import Table
from glassworks.report.page import TIMINGS_END, TIMINGS_START, render_timings

VIEW = "results/report.html"
SHOWN = {
    "stage",
    "key",
    "started",
    "seconds",
    "peak_memory_bytes",
    "host",
    "platform",
    "cores",
    "git_revision",
    "accepted",
}


def write_view(root: Path, table: Table) -> Path | None:
    """Write results/report.html, whole or not at all; None when there is no report to show.

    Raises `ArtifactError` when the report holds no place for timings: it was altered, or is another version's.
    """
    source = root / table["report"].directory / "report.html"
    if not source.is_file():
        return None
    before, start, rest = source.read_text(encoding="utf-8").partition(TIMINGS_START)
    _, end, after = rest.partition(TIMINGS_END)
    if not start or not end:
        raise ArtifactError(f"{source}: no place for timings in it; delete {source.parent} and run `snakemake report`")
    rows = [timing(root, stage) for stage in table]
    write_text(root / VIEW, before + render_timings(rows) + after)
    return root / VIEW


def timing(root: Path, stage: Stage) -> dict[str, Any]:
    """What provenance says of the run that made an artefact.

    `made` is "here" when the provenance speaks of the artefact that stands there, "elsewhere" when the artefact came
    from another machine or another time (`dvc pull`, `dvc checkout`), and "missing" when there is no artefact.
    """
    recipe = read_recipe(root / stage.directory)
    row: dict[str, Any] = {"stage": stage.name, "made": "missing" if recipe is None else "elsewhere", "notes": []}
    try:
        note = json.loads((root / "provenance" / f"{stage.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return row
    if recipe is None or not isinstance(note, dict):
        return row
    steps = note.get("accepted")
    accepted = (
        [step["to"] for step in steps if isinstance(step, dict) and "to" in step] if isinstance(steps, list) else []
    )
    if recipe.get("key") not in [note.get("key"), *accepted]:
        return row
    notes = [
        f"{name.replace('_', ' ')} {value}" for name, value in note.items() if name not in SHOWN and _is_plain(value)
    ]
    if accepted:
        notes.append(f"accepted after {len(accepted)} change{'s' if len(accepted) > 1 else ''} of code")
    shown = {name: note.get(name) for name in SHOWN - {"accepted"}}
    for name in ("seconds", "peak_memory_bytes"):
        shown[name] = shown[name] if isinstance(shown[name], int | float) else None
    return {**row, **shown, "stage": stage.name, "made": "here", "notes": notes}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
