"""The scores of a model for the hub: entries of the model card's metadata, and the files of .eval_results."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from glassworks.artifacts.digests import write_text
from glassworks.evaluation.labels import Column
from glassworks.publishing.subject import Subject
from glassworks.report.attribution import attribution
from glassworks.report.reading import Interval, Run, Scores

EVAL_RESULTS = ".eval_results"


class Score(NamedTuple):
    """A score of the model, and those of the controls by the same metric."""

    scores: Scores
    dataset: str
    column: Column
    value: Interval
    controls: dict[str, Interval]


def shown(value: Interval | None, column: Column) -> str:
    """A value with its interval, in the scale and digits of its column; a dash without a value."""
    if value is None:
        return "–"
    number = _number(value.value, column) + column.unit
    if value.low is None or value.high is None:
        return number
    return f"{number} [{_number(value.low, column)}, {_number(value.high, column)}]"


def _number(value: float, column: Column) -> str:
    return f"{column.scale * value:.{column.digits}f}"


def dataset_of(subject: Subject, scores: Scores) -> str:
    """The data set on which an evaluation scored the model: its own, else the first one of the training."""
    own = scores.settings.get("dataset")
    return str(own) if own else next(iter(training_datasets(subject.model.params)), "")


def training_datasets(params: dict[str, Any]) -> list[str]:
    """The data sets in the parameters of a training."""
    data = params.get("data", {})
    parts = [part for entry in data.get("train", [data]) for part in entry.get("group", [entry])]
    return list(dict.fromkeys(str(part["dataset"]) for part in parts if part.get("dataset")))


def scores_of(subject: Subject, run: Run) -> Iterator[Score]:
    """Every score of the model: the first row of each table; the tiles of an evaluation without a table."""
    for scores in run.evaluations:
        dataset, table = dataset_of(subject, scores), scores.labels.table
        if table is None:
            for tile in scores.labels.tiles:
                if (value := scores.value(tile.value)) is not None:
                    yield Score(scores, dataset, tile, value, {})
            continue
        controls = [row for row in table.rows if row.control]
        for column in table.columns:
            if (value := scores.cell(table.row(table.first), column.name)) is not None:
                found = {row.title: scores.cell(row, column.name) for row in controls}
                known = {title: other for title, other in found.items() if other is not None}
                yield Score(scores, dataset, column, value, known)


def title_of(column: Column) -> str:
    """The name of a metric where the heading of its group is missing."""
    return f"{column.title} ({column.group})" if column.group else column.title


def metadata(subject: Subject, run: Run, task: str) -> list[EvalResult]:
    """The scores as entries of `model-index`."""
    return [
        EvalResult(
            task_type=task,
            dataset_type=score.dataset,
            dataset_name=_dataset_title(subject, score.dataset),
            dataset_split=_split(score.scores),
            metric_type=score.column.name,
            metric_name=title_of(score.column),
            metric_value=_value(score),
        )
        for score in scores_of(subject, run)
    ]


def write_eval_results(subject: Subject, run: Run, target: Path) -> None:
    """Write .eval_results/EVALUATION.yaml for each evaluation."""
    entries: dict[str, list[EvalResultEntry]] = {}
    for score in scores_of(subject, run):
        entry = EvalResultEntry(
            dataset_id=score.dataset,
            task_id=f"{score.scores.name}/{score.column.name}",
            value=_value(score),
            date=subject.facts.date,
            notes=_notes(score),
        )
        entries.setdefault(score.scores.name, []).append(entry)
    for name, some in entries.items():
        (target / EVAL_RESULTS).mkdir(exist_ok=True)
        text = yaml.safe_dump(eval_result_entries_to_yaml(some), sort_keys=False, allow_unicode=True, width=100)
        write_text(target / EVAL_RESULTS / f"{name}.yaml", text)


def _value(score: Score) -> float:
    return round(score.column.scale * score.value.value, score.column.digits)


def _split(scores: Scores) -> str | None:
    return scores.metrics.get("split") or scores.settings.get("split")


def _notes(score: Score) -> str:
    """Metric, interval, split and controls."""
    parts = [f"{title_of(score.column)}: {shown(score.value, score.column)}"]
    parts.append(
        f"{_split(score.scores) or 'held-out'} split, {score.scores.metrics['samples']:,} {score.scores.labels.unit}"
    )
    parts += [f"{title}: {shown(value, score.column)}" for title, value in score.controls.items()]
    return "; ".join(parts)


def _dataset_title(subject: Subject, dataset: str) -> str:
    records = subject.made("records").get(dataset)
    return attribution(records.params).title if records else dataset
