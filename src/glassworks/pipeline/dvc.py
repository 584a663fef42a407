"""Compiles dvc.yaml from the stage table, and records fresh stages in dvc.lock after a Snakemake run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from glassworks.artifacts.digests import write_text
from glassworks.errors import ArtifactError, ConfigError
from glassworks.pipeline.closure import Closure
from glassworks.pipeline.freshness import Keys
from glassworks.pipeline.stage import PACKAGE, Stage
from glassworks.pipeline.table import Table

HEADER = "# Compiled from the stage table by `make dvc.yaml`; never edited by hand.\n"


def compile_dvc(table: Table) -> str:
    """The text of dvc.yaml for a stage table."""
    closure = Closure((table.project.root / PACKAGE).parent, table.project.root / ".work/imports.json")
    content: dict[str, Any] = {"stages": {stage.name: _dvc_stage(table, stage, closure) for stage in table}}
    scored = [stage for stage in table if stage.kind == "evaluate"]
    trained = [stage for stage in table if stage.kind == "train" and stage.subject not in table.project.runs]
    content["metrics"] = [f"{stage.directory}/metrics.json" for stage in scored]
    content["plots"] = [
        {
            f"loss of {stage.subject}": {
                "x": "step",
                "y": {
                    f"{stage.directory}/plots/training.tsv": "loss",
                    f"{stage.directory}/plots/validation.tsv": "loss",
                },
                "x_label": "step",
                "y_label": "loss per token",
            }
        }
        for stage in trained
    ]
    return HEADER + yaml.safe_dump(content, sort_keys=False, width=150)


def _dvc_stage(table: Table, stage: Stage, closure: Closure) -> dict[str, Any]:
    rules = f"{stage.kind} {stage.kind}_job" if stage.jobs else stage.kind
    entry: dict[str, Any] = {
        "cmd": f"snakemake --nolock --allowed-rules {rules} --force -- {stage.manifest}",
        "deps": [
            *(f"{PACKAGE}/{source}" for source in closure.files(stage.entries)),
            *table.input_files(stage),
            *([stage.local_path] if stage.local_path else []),
        ],
        "outs": [stage.directory],
    }
    watched: list[Any] = []
    for file, keys in stage.settings.items():
        if file == "params.yaml" and keys:
            watched += keys
        elif keys:
            watched.append({file: list(keys)})
        elif stage.kind == "report":
            watched.append({file: None})
    if watched:
        entry["params"] = watched
    return entry


def check_dvc(table: Table) -> None:
    """Raise `ConfigError` if dvc.yaml is out of date with the configuration. Called when DVC runs Snakemake."""
    file = table.project.root / "dvc.yaml"
    if not file.is_file() or file.read_text() != compile_dvc(table):
        raise ConfigError(
            "dvc.yaml: params.yaml, experiments/ or imports in the code have changed its stages; run `make dvc.yaml`, then `dvc repro` again"
        )


def in_git(root: Path) -> bool:
    """Whether the project is in a git repository."""
    return any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents))


def cause(output: str) -> str:
    """The error in the output of a DVC command, without its advice on where to ask for help."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("WARNING:")]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (
        errors[0].removeprefix("ERROR:").removeprefix(" unexpected error - ").strip()
        if errors
        else (lines or ["failed"])[-1]
    )


def record(table: Table) -> list[str]:
    """Update dvc.yaml and record every fresh stage in dvc.lock; returns the names of the recorded stages.

    Only stages with a fresh key are committed, so a partial run can be recorded. Does nothing outside a DVC repository or a git repository.
    """
    root = table.project.root
    if not (root / ".dvc").is_dir() or not in_git(root):
        return []
    text = compile_dvc(table)
    if not (root / "dvc.yaml").is_file() or (root / "dvc.yaml").read_text() != text:
        write_text(root / "dvc.yaml", text)
    names = [name for name, key in Keys(table).fresh().items() if key]
    if not names:
        return []
    command = [sys.executable, "-m", "glassworks.pipeline.dvc_commit", *names]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if run.returncode:
        raise ArtifactError(
            f"dvc commit: {cause(run.stderr or run.stdout)}; the results stand, but DVC does not know them yet"
        )
    return names
