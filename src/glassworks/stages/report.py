"""The stage `report`: one self-contained page and its figures, a pure function of its input artefacts.

Durations, hosts and revisions differ between equal runs, so they are left out; `report.view` adds them to a copy.
"""

import json
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import write_text
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.report import figures
from glassworks.report.page import DataCard, Page, Scored, Section, WeightsCard, render_page
from glassworks.report.reading import REMEDY, Run, Scores, read_artefact, read_run
from glassworks.report.variants import compare

PAGE, LOSS, METRICS = "report.html", "loss.svg", "metrics.svg"
LISTED = 10
"""Dropped samples that a data card lists."""


def run(context: Context) -> dict[str, Any]:
    """Write report.html, loss.svg and metrics.svg. Returns the counts of their contents."""
    params, experiments = context.params["params"], context.params["experiments"]
    gallery = params["report"]["gallery"]
    variants = context.params["variants"]
    runs = [
        read_run(name, settings, context.inputs, gallery, variants.get(name)) for name, settings in experiments.items()
    ]
    cards = [_card(name, settings, context.inputs) for name, settings in params["datasets"].items()]
    page = Page(
        title=params["report"]["title"],
        params=params,
        data=cards,
        weights=[
            WeightsCard(name, settings, read_artefact(f"weights-{name}", context.inputs[f"weights-{name}"]))
            for name, settings in params["weights"].items()
            if f"weights-{name}" in context.inputs
        ],
        sections=[_section(run, number, params["seed"]) for number, run in enumerate(runs)],
        artefacts=[read_artefact(name, directory) for name, directory in context.inputs.items()],
    )
    write_text(context.output / PAGE, render_page(page))
    write_text(context.output / LOSS, figures.standalone(figures.loss_figure(runs)))
    write_text(context.output / METRICS, figures.standalone(figures.metrics_figure(_headings(runs))))
    return {
        "datasets": len(cards),
        "experiments": len(runs),
        "gallery": sum(len(scores.pictures) for run in runs for scores in run.evaluations),
    }


def _section(run: Run, number: int, seed: int) -> Section:
    loss, scored = None, []
    if run.curves and run.curves.steps:
        loss = figures.on_page(figures.loss_figure([run]), f"loss-{number}", "Loss and learning rate over steps")
    for index, scores in enumerate(run.evaluations):
        figure = curve = None
        if figures.drawn_columns(scores):
            drawn = figures.metrics_figure({scores.name: scores})
            figure = figures.on_page(drawn, f"scores-{number}-{index}", "Scores of systems and controls")
        if scores.labels.curve:
            drawn = figures.curve_figure(scores, scores.labels.curve)
            curve = figures.on_page(drawn, f"curve-{number}-{index}", scores.labels.curve.title)
        scored.append(Scored(scores, figure, curve))
    seeds, comparison = None, compare(run, seed)
    if comparison:
        drawn = figures.variants_figure(comparison)
        seeds = figures.on_page(drawn, f"variants-{number}", "Scores of variants by seed")
    return Section(run, loss, scored, comparison, seeds)


def _headings(runs: list[Run]) -> dict[str, Scores]:
    """Every evaluation, by the name of its experiment.

    Several evaluations of one experiment have their own names appended.
    """
    return {
        run.name if len(run.evaluations) == 1 else f"{run.name}: {scores.name}": scores
        for run in runs
        for scores in run.evaluations
    }


def _card(name: str, settings: dict[str, Any], inputs: dict[str, Path]) -> DataCard:
    shards, records = (inputs.get(f"{kind}-{name}") for kind in ("shards", "records"))
    return DataCard(
        name=name,
        settings=settings,
        shards=read_artefact(f"shards-{name}", shards) if shards else None,
        records=read_artefact(f"records-{name}", records) if records else None,
        dropped=_listed(records / "dropped.json", LISTED) if records else None,
        remarks=_listed(records / "remarks.json") if records else None,
    )


def _listed(path: Path, most: int | None = None) -> list[dict[str, Any]] | None:
    """The first entries of a list of dropped samples or of remarks; None without the file."""
    if not path.is_file():
        return None
    try:
        return [
            {"where": str(item["where"]), "reason": str(item["reason"]), "count": int(item.get("count", 1))}
            for item in json.loads(path.read_text(encoding="utf-8"))[:most]
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path}: not a list of dropped samples or remarks; {REMEDY}") from None
