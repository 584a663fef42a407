"""results/report.html: the report with the timings of this machine.

The artefact results/report/report.html has the same bytes on every machine. Facts that vary between equal runs are kept in
provenance/STAGE.json and shown only here. No stage depends on results/report.html; each request writes it anew.
"""

from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import write_text
from glassworks.artifacts.manifest import read_recipe
from glassworks.artifacts.provenance import accepted_keys, note_of
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
    """Write results/report.html atomically; returns its path, or None if there is no report.

    Raises `ArtifactError` if the report lacks the markers for the timings: it was altered, or made by another version.
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
    """Provenance of the run that made the artefact of `stage`, as a row for `render_timings`.

    `made` is "here" if the provenance describes the current artefact. It is "elsewhere" if the artefact is from another
    machine or another time (`dvc pull`, `dvc checkout`). It is "missing" if there is no artefact.
    """
    recipe = read_recipe(root / stage.directory)
    row: dict[str, Any] = {"stage": stage.name, "made": "missing" if recipe is None else "elsewhere", "notes": []}
    note = note_of(root, stage.name, None if recipe is None else recipe.get("key"))
    if not note:
        return row
    notes = [
        f"{name.replace('_', ' ')} {value}" for name, value in note.items() if name not in SHOWN and _is_plain(value)
    ]
    if accepted := accepted_keys(note):
        notes.append(f"accepted after {len(accepted)} change{'s' if len(accepted) > 1 else ''} of code")
    shown = {name: note.get(name) for name in SHOWN - {"accepted"}}
    for name in ("seconds", "peak_memory_bytes"):
        shown[name] = shown[name] if isinstance(shown[name], int | float) else None
    return {**row, **shown, "stage": stage.name, "made": "here", "notes": notes}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
