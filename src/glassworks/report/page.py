"""The HTML page of the report: templates, their data, and the marker for the timings.

Captions, labels and settings are untrusted, so everything is escaped except our own CSS and figures. The page has no
external references and needs no script.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from glassworks.artifacts.digests import canonical_json
from glassworks.config.datasets import SPLITS, Credit
from glassworks.evaluation.labels import Column, Gallery, Row, Tile
from glassworks.report import wording
from glassworks.report.attribution import attribution, weights_attribution
from glassworks.report.reading import Artefact, Interval, Run, Scores
from glassworks.report.variants import Comparison

TEMPLATES = Path(__file__).parent / "templates"
TIMINGS_START, TIMINGS_END = "<!-- glassworks:timings -->", "<!-- glassworks:end of timings -->"
"""Markers of the timings section; `report.view` replaces the text between them."""


@dataclass(frozen=True)
class DataCard:
    """Data of the page about a dataset."""

    name: str
    settings: dict[str, Any]
    shards: Artefact | None = None
    records: Artefact | None = None
    dropped: list[dict[str, Any]] | None = None
    """The first dropped samples; None without records."""
    remarks: list[dict[str, Any]] | None = None
    """Facts about the raw files, each with its count and first place."""

    @property
    def attribution(self) -> Credit:
        return attribution(self.settings)

    @property
    def samples(self) -> dict[str, int]:
        """Number of samples by split."""
        found = (self.shards or self.records or _NOTHING).counts.get("samples", {})
        if not isinstance(found, dict):
            return {"all": found}
        return {split: found[split] for split in sorted(found, key=lambda split: (*SPLITS, split).index(split))}

    @property
    def reasons(self) -> dict[str, int]:
        """Dropped samples by reason, the most frequent first."""
        found: dict[str, int] = (self.records or _NOTHING).counts.get("reasons", {})
        return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))

    def count(self, name: str) -> int | None:
        """A count of the shards or the records, such as captions, dropped, shards or bytes; None if neither has it."""
        for artefact in (self.shards, self.records):
            if artefact and name in artefact.counts:
                return artefact.counts[name]
        return None


_NOTHING = Artefact("", "", 0, 0, {}, {})


@dataclass(frozen=True)
class WeightsCard:
    """Data of the page about published weights."""

    name: str
    settings: dict[str, Any]
    artefact: Artefact

    @property
    def attribution(self) -> Credit:
        return weights_attribution(self.settings)


@dataclass(frozen=True)
class Scored:
    """An evaluation with its figures as embedded SVG."""

    scores: Scores
    figure: str | None = None
    curve: str | None = None

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Group headings of the table, each with the number of columns it spans."""
        columns = self.scores.table.columns
        return [(group, len(list(some))) for group, some in groupby(column.group for column in columns)]

    @property
    def bodies(self) -> list[tuple[bool, list[Row]]]:
        """The rows of the table, grouped as (whether the rows are controls, the rows)."""
        rows = self.scores.table.rows
        return [(controls, list(some)) for controls, some in groupby(rows, key=lambda row: row.control)]

    @property
    def terms(self) -> dict[str, str]:
        """Explanations of columns and tiles, by title."""
        labels = self.scores.labels
        shown = [*(labels.table.columns if labels.table else ()), *labels.tiles]
        return {column.title: column.explanation for column in shown if column.explanation}

    @property
    def verdict(self) -> str | None:
        """A sentence that compares the interval of the model with that of its best control, on the main column; None without values."""
        table, scores = self.scores.table, self.scores
        first = table.row(table.first)
        column = next((table.column(name) for name in table.verdict if scores.cell(first, name)), None)
        if column is None:
            return None
        found = [(row, scores.cell(row, column.name)) for row in table.rows if row.control]
        controls = [(row, value) for row, value in found if value]
        own = scores.cell(first, column.name)
        if not controls or own is None:
            return None
        sign = -1 if column.lower_is_better else 1
        best, other = max(controls, key=lambda pair: sign * pair[1].value)
        (low, high), (other_low, other_high) = (sorted(sign * b for b in _bounds(value)) for value in (own, other))
        word = "is better than" if low > other_high else "is worse than" if high < other_low else "cannot be told from"
        shown, bound = _scaled(own.value, column), _scaled(other.value, column)
        shown = shown if first.title == "the model" else f"{first.title}, {shown}"
        return (
            f"By {column.phrase or column.title} the model ({shown}) {word} its best control ({best.title}, {bound})."
        )

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the answers in a gallery, by name."""
        labels = self.scores.labels.items
        return dict(labels.answers) if isinstance(labels, Gallery) else {}

    @property
    def marked(self) -> str | None:
        """A sentence with the number of shown answers that have the counted mark; None if the evaluation counts none."""
        labels = self.scores.labels.items
        if not isinstance(labels, Gallery) or not labels.counted:
            return None
        answer = labels.counted_for
        judged = [picture.marks[answer] for picture in self.scores.pictures if answer in picture.marks]
        if not judged:
            return None
        right = sum(bool(marks.get(labels.counted)) for marks in judged)
        return f"{right} of these {len(judged)} ({self.titles[answer]}) {labels.counted_as}."


@dataclass(frozen=True)
class Section:
    """An experiment with its figures as embedded SVG."""

    run: Run
    loss: str | None = None
    evaluations: Sequence[Scored] = ()
    comparison: Comparison | None = None
    """The table of the variants."""
    seeds: str | None = None
    """The figure of the variants."""

    @property
    def tiles(self) -> list[tuple[str, Tile, Interval | None]]:
        """Numbers at the top of the section: name of the evaluation (empty if there is only one), tile, value."""
        several = len(self.evaluations) > 1
        return [
            (scored.scores.name if several else "", tile, scored.scores.value(tile.value))
            for scored in self.evaluations
            for tile in scored.scores.labels.tiles
        ]

    @property
    def datasets(self) -> list[str]:
        """The training datasets."""
        data = self.run.settings.get("data", {})
        parts = [part for entry in data.get("train", [data]) for part in entry.get("group", [entry])]
        return [part["dataset"] for part in parts if "dataset" in part]

    @property
    def scored_on(self) -> str:
        """The scored splits, as the end of a sentence."""
        found = []
        for scores in self.run.evaluations:
            dataset = scores.settings.get("dataset")
            split = scores.metrics.get("split") or scores.settings.get("split") or "held-out"
            named = f"{scores.metrics['samples']:,} {scores.labels.unit} of the {split} split"
            found.append(f"{named} of {dataset}" if dataset else named)
        return " and ".join(dict.fromkeys(found))

    @property
    def validation(self) -> str | None:
        """A sentence with the last and the lowest validation loss; None without validation."""
        curves = self.run.curves
        pairs = list(zip(curves.validation_losses, curves.validation_steps, strict=True)) if curves else []
        if not pairs:
            return None
        loss, step = pairs[-1]
        lowest, where = min(pairs)
        last = f"Validation loss ended at {loss:.3f} (step {step:,})"
        return f"{last}, its lowest." if where == step else f"{last}; its lowest was {lowest:.3f} (step {where:,})."

    @property
    def steps(self) -> int | None:
        """Steps of the run; those taken if the data decides them."""
        counts = self.run.trained.counts if self.run.trained else {}
        return self.run.settings.get("training", {}).get("steps") or counts.get("steps")

    @property
    def cautions(self) -> list[str]:
        """Sentences about a training that learned its data by heart, and about captions that were cut."""
        counts = self.run.trained.counts if self.run.trained else {}
        found = []
        if (step := counts.get("memorised_after")) is not None:
            found.append(f"Memorised: validation loss rose after step {step:,}, while training loss fell.")
        if counts.get("cut_captions"):
            found.append(
                f"{counts['cut_captions']:,} of {counts['captions']:,} training captions are longer than the model's max_tokens; their ends were not learned."
            )
        return found

    @property
    def parameters(self) -> int | None:
        return self.run.trained.counts.get("parameters") if self.run.trained else None


@dataclass(frozen=True)
class Page:
    """All data of the page."""

    title: str
    params: dict[str, Any]
    data: Sequence[DataCard]
    weights: Sequence[WeightsCard]
    sections: Sequence[Section]
    artefacts: Sequence[Artefact]
    fingerprints: list[tuple[dict[str, Any], list[str]]] = field(init=False)
    """Distinct environments, each with the stages that ran in it."""

    @property
    def digests(self) -> list[tuple[str, list[Artefact]]]:
        """The artefacts, grouped as (name of the experiment if these are of its variants, the artefacts)."""
        of = {
            artefact.stage: section.run.name
            for section in self.sections
            for variant in section.run.variants
            for run in variant.runs.values()
            if run.name != section.run.name
            for artefact in [run.trained, *(scores.artefact for scores in run.evaluations)]
            if artefact
        }
        return [
            (name, list(some))
            for name, some in groupby(self.artefacts, key=lambda artefact: of.get(artefact.stage, ""))
        ]

    def __post_init__(self) -> None:
        distinct: dict[str, tuple[dict[str, Any], list[str]]] = {}
        for artefact in self.artefacts:
            found = artefact.recipe.get("fingerprint") or {}
            distinct.setdefault(canonical_json(found), (found, []))[1].append(artefact.stage)
        object.__setattr__(self, "fingerprints", [pair for pair in distinct.values() if pair[0]])


def render_page(page: Page) -> str:
    """The page as HTML, with the markers for the timings."""
    return _environment().get_template("page.html.j2").render(page=page)


def render_timings(rows: Sequence[dict[str, Any]]) -> str:
    """The timings section as HTML, from the rows of `report.view.timing`."""
    seconds = [row["seconds"] for row in rows if row.get("seconds")]
    template = _environment().get_template("timings.html.j2")
    return template.render(rows=rows, longest=max(seconds, default=1), total=sum(seconds))


def environment_of(templates: Path) -> jinja2.Environment:
    """An environment for the HTML templates of a folder: it escapes all values and refuses unknown names."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _environment() -> jinja2.Environment:
    environment = environment_of(TEMPLATES)
    environment.filters.update(
        clock=wording.duration,
        inline=canonical_json,
        magnitude=wording.magnitude,
        number=_number,
        revision=_revision,
        scaled=_scaled,
        signed=_signed,
        size=wording.size,
        unmarked=_unmarked,
        yaml=_yaml,
    )
    environment.globals.update(
        stylesheet=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        timings_start=Markup(TIMINGS_START),
        timings_end=Markup(TIMINGS_END),
    )
    return environment


def _scaled(value: float, column: Column) -> str:
    """A number in the scale and digits of its column."""
    return f"{column.scale * value:.{column.digits}f}"


def _signed(value: float, column: Column) -> str:
    """A difference in the scale and digits of its column, with its sign."""
    return f"{column.scale * value:+.{column.digits}f}".replace("-", "−")


def _bounds(value: Interval) -> tuple[float, float]:
    """The bounds of the interval, or the value twice if there is no interval."""
    return (value.value, value.value) if value.low is None or value.high is None else (value.low, value.high)


def _number(value: Any) -> str:
    """Integers with thousands separators; other values unchanged."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _revision(commit: str) -> str:
    """A commit shortened to twelve digits, with the suffix for uncommitted changes."""
    commit, mark, changes = commit.partition("+")
    return commit[:12] + mark + changes


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=96)


def _unmarked(svg: str) -> Markup:
    """A figure of ours, marked as safe HTML: matplotlib has already escaped the names in it."""
    assert not re.search(r"<script|<!--|\son\w+=", svg)
    return Markup(svg)
