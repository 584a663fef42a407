"""The page: templates, what they are given, and the marker where timings go.

Captions, labels and settings come from outside, so everything is escaped; only our own CSS and figures are not. The
page names nothing outside itself and needs no script.
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
from glassworks.config.datasets import SPLITS
from glassworks.report import wording
from glassworks.report.attribution import Attribution, attribution, weights_attribution
from glassworks.report.reading import Artefact, Run
from glassworks.report.wording import BASELINES, METRICS, is_control, system

TEMPLATES = Path(__file__).parent / "templates"
TIMINGS_START, TIMINGS_END = "<!-- glassworks:timings -->", "<!-- glassworks:end of timings -->"
"""What stands between is replaced by `report.view`."""
MODEL_FIRST = ("beam", "greedy")
"""The system whose scores head an experiment: the first of these that was scored."""


@dataclass(frozen=True)
class DataCard:
    """What the page says of a data set."""

    name: str
    settings: dict[str, Any]
    shards: Artefact | None = None
    records: Artefact | None = None
    dropped: list[dict[str, str]] | None = None
    """The first samples that could not be used, where the records were given."""

    @property
    def attribution(self) -> Attribution:
        return attribution(self.settings)

    @property
    def samples(self) -> dict[str, int]:
        """By split."""
        found = (self.shards or self.records or _NOTHING).counts.get("samples", {})
        if not isinstance(found, dict):
            return {"all": found}
        return {split: found[split] for split in sorted(found, key=lambda split: (*SPLITS, split).index(split))}

    def count(self, name: str) -> int | None:
        """A count of either artefact: captions, dropped, shards, bytes."""
        for artefact in (self.shards, self.records):
            if artefact and name in artefact.counts:
                return artefact.counts[name]
        return None


_NOTHING = Artefact("", "", 0, 0, {}, {})


@dataclass(frozen=True)
class WeightsCard:
    """What the page says of published weights."""

    name: str
    settings: dict[str, Any]
    artefact: Artefact

    @property
    def attribution(self) -> Attribution:
        return weights_attribution(self.settings)


@dataclass(frozen=True)
class Section:
    """An experiment with its figures, as SVG for the page."""

    run: Run
    loss: str | None = None
    scores: str | None = None

    @property
    def first_system(self) -> str | None:
        """The system whose scores head the experiment."""
        return next((name for name in (*MODEL_FIRST, *self.run.systems) if name in self.run.systems), None)

    @property
    def metrics(self) -> list[str]:
        """The metrics that some system has, in the order of the table."""
        return [name for name in METRICS if any(name in scores for scores in self.run.systems.values())]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """What the metrics compare with, and how many columns do."""
        return [(group, len(list(columns))) for group, columns in groupby(METRICS[name].group for name in self.metrics)]

    @property
    def bodies(self) -> list[tuple[bool, list[str]]]:
        """The systems as parts of the table: (whether these are controls, their names)."""
        return [(controls, list(names)) for controls, names in groupby(self.run.systems, key=is_control)]

    @property
    def text_rows(self) -> list[tuple[bool, list[dict[str, Any]]]]:
        """Bits per byte of a language model and of its baselines, as parts of the table: (whether these are baselines, rows); empty for other models."""
        own = self.run.metrics.get("bits_per_byte")
        if own is None:
            return []
        baselines = [
            {"title": name, "explanation": BASELINES.get(name, ""), "value": value, "low": None, "high": None}
            for name, value in sorted(self.run.metrics.get("baselines", {}).items(), key=lambda item: item[1])
        ]
        model = [{"title": "the model", "explanation": "", **own}] if own["value"] is not None else []
        return [(False, model), (True, baselines)]

    @property
    def validation(self) -> str | None:
        """Where the validation loss ended, and where it was lowest."""
        curves = self.run.curves
        pairs = list(zip(curves.validation_losses, curves.validation_steps, strict=True)) if curves else []
        if not pairs:
            return None
        loss, step = pairs[-1]
        lowest, where = min(pairs)
        last = f"Validation loss ended at {loss:.3f} (step {step:,})"
        return f"{last}, its lowest." if where == step else f"{last}; its lowest was {lowest:.3f} (step {where:,})."

    @property
    def parameters(self) -> int | None:
        counts = self.run.trained.counts if self.run.trained else {}
        return self.run.metrics.get("parameters") or counts.get("parameters")

    @property
    def verdict(self) -> str | None:
        """Whether the model is above its best control, by intervals, on the metric that says most."""
        metric = next((name for name in ("objects", "cider") if name in self.metrics), None)
        controls = [name for name in self.run.systems if is_control(name) and metric and self.run.score(name, metric)]
        if metric is None or self.first_system is None or not controls:
            return None
        own = self.run.score(self.first_system, metric)
        best = max(controls, key=lambda name: self.run.score(name, metric)["value"])  # type: ignore[index]
        other = self.run.score(best, metric)
        if own is None or other is None:
            return None
        word = "is above" if own["low"] > other["high"] else "cannot be told from"
        word = "is below" if own["high"] < other["low"] else word
        title = "exact objects" if metric == "objects" else METRICS[metric].title
        model, control = system(self.first_system).title, system(best).title
        return (
            f"By {title} the model ({model}, {_hundred(own['value'])}) {word} "
            f"its best control ({control}, {_hundred(other['value'])})."
        )

    @property
    def marked(self) -> str | None:
        """How many of the images shown have captions that name exactly their objects."""
        judged = [sample.facts[self.first_system] for sample in self.run.gallery if self.first_system in sample.facts]
        if not judged or self.first_system is None:
            return None
        right = sum(bool(facts.get("objects")) for facts in judged)
        return f"{right} of these {len(judged)} captions ({system(self.first_system).title}) name exactly the objects."


@dataclass(frozen=True)
class Page:
    """Everything the page shows."""

    title: str
    params: dict[str, Any]
    data: Sequence[DataCard]
    weights: Sequence[WeightsCard]
    sections: Sequence[Section]
    artefacts: Sequence[Artefact]
    fingerprints: list[tuple[dict[str, Any], list[str]]] = field(init=False)
    """Distinct environments, each with the stages that ran there."""

    def __post_init__(self) -> None:
        distinct: dict[str, tuple[dict[str, Any], list[str]]] = {}
        for artefact in self.artefacts:
            found = artefact.recipe.get("fingerprint") or {}
            distinct.setdefault(canonical_json(found), (found, []))[1].append(artefact.stage)
        object.__setattr__(self, "fingerprints", [pair for pair in distinct.values() if pair[0]])


def render_page(page: Page) -> str:
    """The page as HTML, with the marker where timings go."""
    return _environment().get_template("page.html.j2").render(page=page)


def render_timings(rows: Sequence[dict[str, Any]]) -> str:
    """The section that takes the place of the marker; rows as `report.view` makes them."""
    seconds = [row["seconds"] for row in rows if row.get("seconds")]
    template = _environment().get_template("timings.html.j2")
    return template.render(rows=rows, longest=max(seconds, default=1), total=sum(seconds))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clock=wording.duration,
        hundred=_hundred,
        magnitude=wording.magnitude,
        number=_number,
        revision=_revision,
        size=wording.size,
        unmarked=_unmarked,
        yaml=_yaml,
    )
    environment.globals.update(
        METRICS=METRICS,
        system=system,
        is_control=is_control,
        stylesheet=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        timings_start=Markup(TIMINGS_START),
        timings_end=Markup(TIMINGS_END),
    )
    return environment


def _hundred(value: float) -> str:
    """A fraction as papers print scores: times 100, one digit after the point."""
    return f"{100 * value:.1f}"


def _number(value: Any) -> str:
    """Whole numbers with separators, others as they are."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _revision(commit: str) -> str:
    """A commit in twelve digits, with its mark of uncommitted changes."""
    commit, mark, changes = commit.partition("+")
    return commit[:12] + mark + changes


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=96)


def _unmarked(svg: str) -> Markup:
    """A figure of ours, not to be escaped; matplotlib has escaped the names in it."""
    assert not re.search(r"<script|<!--|\son\w+=", svg)
    return Markup(svg)
