"""The model that is published: its artefact, its scores, its origin, and the few facts that no artefact holds."""

import os
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from glassworks.config.base import nearest
from glassworks.config.project import evaluations_of
from glassworks.errors import ArtifactError, ConfigError
from glassworks.pipeline.stage import Stage, stage_name
from glassworks.pipeline.table import Table
from glassworks.pipeline.verification import check
from glassworks.publishing.lineage import Made, lineage, read_made
from glassworks.report.reading import Run, read_run
from glassworks.report.view import timing

CITATION = "CITATION.cff"
EPOCH = "SOURCE_DATE_EPOCH"
"""Environment variable with the date to publish, in seconds since 1970 (reproducible-builds.org)."""
EXAMPLES = 3
"""Items of an evaluation that the card shows."""


@dataclass(frozen=True)
class Facts:
    """What a publication says beyond its artefacts. Its record holds them, so that it can be made again."""

    date: str
    """When the training ended, as an ISO date in UTC; else the date of the commit."""
    code: str | None
    """Commit of the project that trained the model; None if it is not known on this machine."""
    licence: str | None
    """SPDX identifier of the licence of the weights, as stated by the publisher."""
    authors: list[dict[str, str]]
    """Authors in the form of CITATION.cff."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """A trained model with all that its publication shows."""

    name: str
    root: Path
    """The project."""
    model: Made
    evaluations: dict[str, Made]
    origin: dict[str, Made]
    """Everything that model and scores were made from, by stage."""
    trained_from: frozenset[str]
    """Stages of `origin` that the training depends on; the others are for scores alone."""
    facts: Facts

    @property
    def folder(self) -> Path:
        """The folder with the files of the model."""
        return self.root / self.model.directory

    @property
    def task(self) -> str:
        return str(self.model.params.get("task"))

    def run(self) -> Run:
        """Scores and curves, as the report reads them."""
        evaluations = {name: made.params["evaluation"] for name, made in self.evaluations.items()}
        found = {stage_name("evaluate", self.name, name): made for name, made in self.evaluations.items()}
        folders = {stage: self.root / made.directory for stage, made in found.items()}
        folders[self.model.stage] = self.folder
        return read_run(self.name, {**self.model.params, "evaluations": evaluations}, folders, EXAMPLES)

    def made(self, kind: str) -> dict[str, Made]:
        """The artefacts of a kind that the model or its scores were made from, by subject."""
        start = f"{kind}-"
        return {name.removeprefix(start): made for name, made in self.origin.items() if name.startswith(start)}


def trained_stage(table: Table, name: str) -> Stage:
    """The training stage of an experiment. Raises `ConfigError` for an unknown one."""
    known = {stage.subject: stage for stage in table if stage.kind == "train"}
    if name not in known:
        raise ConfigError(f"{name}: the project has no experiment of this name{nearest(name, list(known))}")
    return known[name]


def read_subject(table: Table, name: str, facts: Facts) -> Subject:
    """The model of an experiment.

    Raises `ArtifactError` for a model or scores that are missing, altered, or of different trainings.
    """
    stage = trained_stage(table, name)
    model = read_made(table, stage)
    check(table, stage)
    evaluations = {}
    for part in evaluations_of(table.project.experiments[name]):
        scored = table[stage_name("evaluate", name, part)]
        found = read_made(table, scored)
        if found.inputs.get("model") != model.digest:
            raise ArtifactError(
                f"{scored.directory}: these are scores of another model than {stage.directory}; run `snakemake {scored.manifest}`"
            )
        check(table, scored)
        evaluations[part] = found
    origin = lineage(table, [model, *evaluations.values()])
    trained_from = frozenset(lineage(table, [model]))
    return Subject(name, table.project.root, model, evaluations, origin, trained_from, facts)


def find_facts(table: Table, name: str, licence: str | None) -> Facts:
    """The facts of a new publication: date and commit of the training if this machine recorded them, else the date of the last commit.

    Raises `ConfigError` if there is no date.
    """
    root, stage = table.project.root, trained_stage(table, name)
    read_made(table, stage)
    note = timing(root, stage)
    here = note["made"] == "here" and isinstance(note.get("started"), str)
    code = note.get("git_revision") if here else None
    if EPOCH in os.environ:
        return Facts(_of_epoch(os.environ[EPOCH]), code, licence, _authors(root))
    if here:
        ended = datetime.fromisoformat(note["started"]) + timedelta(seconds=round(note.get("seconds") or 0))
        return Facts(_iso(ended), code, licence, _authors(root))
    commit = _commit_date(root)
    if commit is None:
        raise ConfigError(f"{stage.directory}: no record of its training and no commit here says a date; set {EPOCH}")
    return Facts(commit, code, licence, _authors(root))


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _of_epoch(value: str) -> str:
    try:
        return _iso(datetime.fromtimestamp(int(value), UTC))
    except (ValueError, OverflowError, OSError):
        raise ConfigError(f"{EPOCH}: {value!r} is not a number of seconds since 1970") from None


def _commit_date(root: Path) -> str | None:
    command = ["git", "log", "-1", "--format=%cI"]
    try:
        shown = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
        return _iso(datetime.fromisoformat(shown))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _authors(root: Path) -> list[dict[str, str]]:
    """The authors in the project's CITATION.cff; none without this file."""
    try:
        content = yaml.safe_load((root / CITATION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise ConfigError(f"{CITATION}: not readable as YAML; correct it, or remove it") from None
    authors = content.get("authors") if isinstance(content, dict) else None
    if not isinstance(authors, list) or not all(isinstance(author, dict) for author in authors):
        raise ConfigError(f"{CITATION}: no list of authors; correct it, or remove it")
    return [{str(key): str(value) for key, value in sorted(author.items())} for author in authors]
