"""Reads the artefacts shown in the report: manifests, recipes, logs, scores, items, images.

Optional files (an image, a log) may be missing. An existing but unreadable file raises `DataError`.
"""

import base64
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from glassworks.artifacts.digests import sha256_file
from glassworks.artifacts.manifest import MANIFEST, read_manifest, read_recipe
from glassworks.errors import DataError
from glassworks.evaluation.labels import GALLERY, ITEMS, LABELS, METRICS, Gallery, Labels, Row, Table, Texts, look_up
from glassworks.pipeline.stage import stage_name

REMEDY = "check it with `glassworks verify`, or delete the folder and make it again"
ROWS = "rows.json"
"""File of the training rows in the artefact of the stage `pack`."""
RATE = "learning_rate"
"""Column of a training log: the learning rate of parameters in no group. The rate of a group is `learning_rate.NAME`."""
MEDIA_TYPES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF....WEBP": "image/webp",
    b"RIFF....WAVE": "audio/wav",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
    b"ID3": "audio/mpeg",
    b"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]": "audio/mpeg",
}
"""Media types by a pattern of the first bytes."""


@dataclass(frozen=True)
class Artefact:
    """Summary of the artefact of a stage."""

    stage: str
    manifest: str
    """sha256 of manifest.json. Artefacts with equal content have equal manifests."""
    files: int
    bytes: int
    counts: dict[str, Any]
    recipe: dict[str, Any]


class Interval(NamedTuple):
    """A value and its interval; None bounds if there is no interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curves:
    """Curves from the log of a training run."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    """Learning rate of parameters in no group."""
    group_rates: dict[str, list[float]] = field(default_factory=dict)
    """Learning rates by parameter group; 0 where the group is frozen."""
    validation_steps: list[int] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    parts: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    """Steps and values of every named part of the loss, where its weight is not 0."""
    validation_parts: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    """The same for the validation loss: parts of the loss, and held-out sets."""


@dataclass(frozen=True)
class Picture:
    """An item of a gallery: an image, a sound, a question or several of them, with texts."""

    key: str
    question: str | None
    image: str | None
    """The image as a data URI, if it was kept."""
    sound: str | None
    """The sound as a data URI, if it was kept."""
    truth: list[str]
    answers: dict[str, str]
    """Texts by the name of the answer."""
    marks: dict[str, dict[str, bool | None]]
    """Marks by the name of the answer, then by the name of the mark."""

    @property
    def distinct(self) -> dict[str, list[str]]:
        """Names of the answers by text, so that equal answers are shown once."""
        found: dict[str, list[str]] = {}
        for name, text in self.answers.items():
            found.setdefault(text, []).append(name)
        return found


@dataclass(frozen=True)
class Text:
    """A generated text."""

    label: str
    prompt: str
    text: str


@dataclass(frozen=True)
class Scores:
    """The results of one evaluation."""

    name: str
    settings: dict[str, Any]
    artefact: Artefact
    metrics: dict[str, Any]
    labels: Labels
    pictures: list[Picture] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def value(self, pointer: str) -> Interval | None:
        """The value at a JSON pointer into the metrics; None if it was not computed or is undefined."""
        found = look_up(self.metrics, pointer)
        if isinstance(found, int | float):
            return Interval(found, None, None)
        return Interval(**found) if found and found["value"] is not None else None

    def cell(self, row: Row, column: str) -> Interval | None:
        """The value of a table cell; None if the cell is empty."""
        return self.value(row.cells[column]) if column in row.cells else None

    @property
    def table(self) -> Table:
        assert self.labels.table
        return self.labels.table


class Span(NamedTuple):
    """A piece of a training row in which all tokens have one weight of the loss."""

    text: str
    weight: float


@dataclass(frozen=True)
class TrainingRow:
    """A row of packed conversations."""

    number: int
    padding: int
    """Positions that hold padding."""
    texts: list[list[Span]]
    """The conversations; a message tree has one text for the context and one for each branch."""


@dataclass(frozen=True)
class Variant:
    """A variant of an experiment and its training runs."""

    name: str
    overrides: dict[str, Any]
    runs: dict[int, "Run"]
    """By seed."""


@dataclass(frozen=True)
class Run:
    """One experiment: settings, training curves, scores and variants."""

    name: str
    settings: dict[str, Any]
    trained: Artefact | None = None
    curves: Curves | None = None
    evaluations: list[Scores] = field(default_factory=list)
    variants: list[Variant] = field(default_factory=list)
    rows: dict[str, list[TrainingRow]] = field(default_factory=dict)
    """Some training rows of conversations, by data set."""


def read_artefact(stage: str, directory: Path) -> Artefact:
    """The summary of an artefact. Raises `ArtifactError` if it has no manifest."""
    manifest = read_manifest(directory)
    return Artefact(
        stage=stage,
        manifest=sha256_file(directory / MANIFEST),
        files=len(manifest.files),
        bytes=sum(entry["size"] for entry in manifest.files.values()),
        counts=manifest.counts,
        recipe=read_recipe(directory) or {},
    )


def read_run(
    name: str,
    settings: dict[str, Any],
    inputs: dict[str, Path],
    gallery: int,
    variants: dict[str, list[tuple[int, str]]] | None = None,
) -> Run:
    """All report data of one experiment, with the first `gallery` items of each evaluation.

    `variants` holds seed and name of the training runs of each variant, which have the evaluations of the experiment.
    """
    model = inputs.get(f"train-{name}")
    evaluations = settings.get("evaluations", {})
    found = {part: inputs.get(stage_name("evaluate", name, part)) for part in evaluations}
    return Run(
        name=name,
        settings=settings,
        trained=read_artefact(f"train-{name}", model) if model else None,
        curves=read_curves(model / "metrics.jsonl") if model and (model / "metrics.jsonl").is_file() else None,
        evaluations=[
            read_scores(name, part, evaluations[part], folder, gallery) for part, folder in found.items() if folder
        ],
        variants=[
            Variant(
                variant,
                settings["variants"][variant]["set"],
                {seed: read_run(other, settings, inputs, 0) for seed, other in runs},
            )
            for variant, runs in (variants or {}).items()
        ],
        rows=read_rows(inputs[f"pack-{name}"] / ROWS) if f"pack-{name}" in inputs else {},
    )


def read_rows(path: Path) -> dict[str, list[TrainingRow]]:
    """The training rows that the stage `pack` chose, by data set."""
    try:
        return {
            dataset: [
                TrainingRow(row["row"], row["padding"], [[Span(*run) for run in text] for text in row["texts"]])
                for row in rows
            ]
            for dataset, rows in read_json(path).items()
        }
    except (TypeError, KeyError, AttributeError):
        raise DataError(f"{path}: not the rows of the stage `pack`; {REMEDY}") from None


def read_scores(experiment: str, name: str, settings: dict[str, Any], folder: Path, gallery: int) -> Scores:
    """The results of an evaluation. Only values used by the report are validated."""
    labels, metrics = read_labels(folder / LABELS), read_json(folder / METRICS)
    if not isinstance(metrics.get("samples"), int):
        raise DataError(
            f"{folder / METRICS}: samples: expected a count, found {metrics.get('samples')!r:.40}; {REMEDY}"
        )
    pointers = [tile.value for tile in labels.tiles]
    pointers += [where for row in (labels.table.rows if labels.table else ()) for where in row.cells.values()]
    for where in pointers:
        value = look_up(metrics, where)
        if not (value is None or _is_number(value) or _is_interval(value)):
            raise DataError(
                f"{folder / METRICS}: {where}: expected a number, or value, low and high, found {value!r:.40}; {REMEDY}"
            )
    return Scores(
        name=name,
        settings=settings,
        artefact=read_artefact(stage_name("evaluate", experiment, name), folder),
        metrics=metrics,
        labels=labels,
        pictures=read_gallery(folder, labels.items, gallery) if isinstance(labels.items, Gallery) else [],
        texts=read_texts(folder / ITEMS, labels.items) if isinstance(labels.items, Texts) else [],
    )


def read_labels(path: Path) -> Labels:
    """The labels of an evaluation."""
    try:
        return Labels.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {REMEDY}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ": ".join(filter(None, (str(path), ".".join(map(str, fault["loc"])))))
        raise DataError(f"{where}: {fault['msg']}; {REMEDY}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {REMEDY}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not JSON ({error}); {REMEDY}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: not a JSON object; {REMEDY}")
    return value


def read_curves(path: Path) -> Curves:
    """The curves in a training log. Rows are training steps or validations, and may have additional columns."""
    curves = Curves()
    for place, row in _rows(path):
        step = _number(row, "step", place)
        if "loss" in row:
            curves.steps.append(int(step))
            curves.losses.append(_number(row, "loss", place))
            if RATE in row:
                curves.learning_rates.append(_number(row, RATE, place))
            for name in (name for name in row if name.startswith(f"{RATE}.")):
                rates = curves.group_rates.setdefault(name.removeprefix(f"{RATE}."), [])
                rates.append(_number(row, name, place))
        if "validation_loss" in row:
            curves.validation_steps.append(int(step))
            curves.validation_losses.append(_number(row, "validation_loss", place))
        for prefix, parts in (("loss.", curves.parts), ("validation_loss.", curves.validation_parts)):
            for name in (name for name, value in row.items() if name.startswith(prefix) and value is not None):
                steps, values = parts.setdefault(name.removeprefix(prefix), ([], []))
                steps.append(int(step))
                values.append(_number(row, name, place))
    of_groups = {f"{RATE}.{name}": rates for name, rates in curves.group_rates.items()}
    for name, rates in {RATE: curves.learning_rates, **of_groups}.items():
        if rates and len(rates) != len(curves.steps):
            raise DataError(f"{path}: some training steps have a {name} and some have none; {REMEDY}")
    return curves


def read_gallery(results: Path, labels: Gallery, count: int) -> list[Picture]:
    """The first `count` items of a gallery, with their images and sounds if these were kept."""
    files: dict[str, list[Path]] = {}
    for path in sorted((results / GALLERY).glob("*")):
        files.setdefault(path.name.partition(".")[0], []).append(path)
    pictures: list[Picture] = []
    for place, row in _rows(results / ITEMS):
        if len(pictures) == count:
            break
        key, truth, marks = row.get("key"), row.get(labels.truth, []), row.get(labels.marks_in, {})
        texts = truth if isinstance(truth, list) else [None]
        if not all(isinstance(text, str) for text in [key, *texts]):
            raise DataError(f"{place}: expected a key and, under {labels.truth}, a list of texts; {REMEDY}")
        question = row.get(labels.question) if labels.question else None
        if labels.question and not isinstance(question, str):
            raise DataError(f"{place}: {labels.question}: expected the text of a question; {REMEDY}")
        if not isinstance(marks, dict) or not all(isinstance(marked, dict) for marked in marks.values()):
            raise DataError(f"{place}: {labels.marks_in}: expected an object for each answer; {REMEDY}")
        answers = {name: row[name] for name, _ in labels.answers if isinstance(row.get(name), str)}
        kept = [_data_uri(path) for path in files.get(str(key).replace("/", "_"), [])]
        image, sound = (
            next((uri for uri in kept if uri.startswith(f"data:{kind}/")), None) for kind in ("image", "audio")
        )
        pictures.append(Picture(str(key), question, image, sound, truth, answers, marks))
    return pictures


def read_texts(path: Path, labels: Texts) -> list[Text]:
    """The generated texts in items.jsonl."""
    texts = []
    for place, row in _rows(path):
        found = [row.get(name, "") for name in (labels.prompt, labels.text)]
        if not all(isinstance(text, str) for text in found) or labels.text not in row:
            raise DataError(f"{place}: expected texts under {labels.prompt!r} and {labels.text!r}; {REMEDY}")
        value = row.get(labels.label)
        value = f"{value:g}" if _is_number(value) else str(value)
        texts.append(Text(f"{labels.label} {value}", *found))
    return texts


def _data_uri(path: Path) -> str:
    """An image or a sound as a data URI. The media type is detected from the bytes, not from the file name."""
    content = path.read_bytes()
    kind = next((kind for start, kind in MEDIA_TYPES.items() if re.match(start, content, re.DOTALL)), None)
    if kind is None:
        raise DataError(f"{path}: not a PNG, JPEG, GIF or WebP image, nor a WAV, FLAC, Ogg or MP3 sound; {REMEDY}")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSONL file, each with its location (PATH:LINE) for messages."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; {REMEDY}") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: not a JSON object; {REMEDY}")
        yield f"{path}:{number}", row


def _number(row: dict[str, Any], name: str, place: str) -> float:
    value = row.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DataError(f"{place}: {name}: expected a number, found {value!r:.40}; {REMEDY}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_interval(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"value", "low", "high"}:
        return False
    numbers = list(value.values())
    return numbers == [None] * 3 or all(_is_number(number) for number in numbers)
