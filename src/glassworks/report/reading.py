"""Reads what the report shows out of the artefacts it is given: manifests, recipes, logs, scores, captions, images.

Optional pieces may be missing (an image, a log); a piece that is there and cannot be read is a `DataError`.
"""

import base64
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import sha256_file
from glassworks.artifacts.manifest import MANIFEST, read_manifest, read_recipe
from glassworks.errors import DataError
from glassworks.report.wording import SYSTEMS, is_control

REMEDY = "check it with `glassworks verify`, or delete the folder and make it again"
RATE = "learning_rate"
"""In a training log: what no parameter group matches; the rate of a group stands under `learning_rate.NAME`."""
IMAGE_TYPES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


@dataclass(frozen=True)
class Artefact:
    """What a stage made, and how, in digests."""

    stage: str
    manifest: str
    """sha256 of its manifest.json: equal content has an equal manifest."""
    files: int
    bytes: int
    counts: dict[str, Any]
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Curves:
    """The log of one training run."""

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    """Of what no parameter group matches."""
    group_rates: dict[str, list[float]] = field(default_factory=dict)
    """Of each parameter group, by its name; 0 where it is frozen."""
    validation_steps: list[int] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """A held-out image with what was said of it."""

    key: str
    image: str | None
    """Data URI."""
    references: list[str]
    captions: dict[str, str]
    """By system."""
    facts: dict[str, dict[str, bool | None]]
    """By system: which facts of the labels the caption gets right, where the evaluation says so."""


@dataclass(frozen=True)
class Text:
    """What a language model wrote."""

    prompt: str
    temperature: float
    text: str


@dataclass(frozen=True)
class Run:
    """One experiment: what it was, how training went, how it scores."""

    name: str
    settings: dict[str, Any]
    trained: Artefact | None = None
    scored: Artefact | None = None
    curves: Curves | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    gallery: list[Sample] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    @property
    def systems(self) -> dict[str, Any]:
        """Scores by system in the order of the report: controls last, and before them what it does not know."""
        found = self.metrics.get("systems", {})
        known = [name for name in SYSTEMS if name in found]
        return {name: found[name] for name in sorted([*known, *sorted(found.keys() - set(known))], key=is_control)}

    def score(self, system: str, metric: str) -> dict[str, float] | None:
        """value, low and high; None where it was not computed or is undefined."""
        found = self.systems.get(system, {}).get(metric)
        return found if found and found.get("value") is not None else None


def read_artefact(stage: str, directory: Path) -> Artefact:
    """Digests and counts of an artefact; an `ArtifactError` when it has no manifest."""
    manifest = read_manifest(directory)
    return Artefact(
        stage=stage,
        manifest=sha256_file(directory / MANIFEST),
        files=len(manifest.files),
        bytes=sum(entry["size"] for entry in manifest.files.values()),
        counts=manifest.counts,
        recipe=read_recipe(directory) or {},
    )


def read_run(name: str, settings: dict[str, Any], inputs: dict[str, Path], gallery: int) -> Run:
    """Everything there is to show of one experiment, with the first `gallery` images."""
    model, results = inputs.get(f"train-{name}"), inputs.get(f"evaluate-{name}")
    return Run(
        name=name,
        settings=settings,
        trained=read_artefact(f"train-{name}", model) if model else None,
        scored=read_artefact(f"evaluate-{name}", results) if results else None,
        curves=read_curves(model / "metrics.jsonl") if model and (model / "metrics.jsonl").is_file() else None,
        metrics=read_metrics(results / "metrics.json") if results and (results / "metrics.json").is_file() else {},
        gallery=read_gallery(results, gallery) if results and (results / "captions.jsonl").is_file() else [],
        texts=read_texts(results / "samples.jsonl") if results and (results / "samples.jsonl").is_file() else [],
    )


def read_curves(path: Path) -> Curves:
    """The curves in a training log; rows may be training steps or validations, and may hold more than is shown."""
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
    of_groups = {f"{RATE}.{name}": rates for name, rates in curves.group_rates.items()}
    for name, rates in {RATE: curves.learning_rates, **of_groups}.items():
        if rates and len(rates) != len(curves.steps):
            raise DataError(f"{path}: some training steps have a {name} and some have none; {REMEDY}")
    return curves


def read_metrics(path: Path) -> dict[str, Any]:
    """The scores of an experiment, checked as far as the report relies on them."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not JSON ({error}); {REMEDY}") from None
    if not isinstance(metrics, dict) or not isinstance(metrics.get("systems", {}), dict):
        raise DataError(f"{path}: no object with scores by system; {REMEDY}")
    found = [(f"systems.{name}", scores) for name, scores in metrics.get("systems", {}).items()]
    for where, scores in found:
        if not isinstance(scores, dict):
            raise DataError(f"{path}: {where}: expected scores by metric, found {scores!r:.40}; {REMEDY}")
    intervals = [(f"{where}.{metric}", value) for where, scores in found for metric, value in scores.items()]
    intervals += [(name, metrics[name]) for name in ("perplexity", "bits_per_byte") if name in metrics]
    baselines = metrics.get("baselines", {})
    if not isinstance(baselines, dict) or not all(isinstance(value, int | float) for value in baselines.values()):
        raise DataError(f"{path}: baselines: expected numbers by name, found {baselines!r:.40}; {REMEDY}")
    for name in ("samples", "parameters", "tokens", "bytes"):
        if not isinstance(metrics.get(name, 0), int):
            raise DataError(f"{path}: {name}: expected a count, found {metrics[name]!r:.40}; {REMEDY}")
    for where, value in intervals:
        if not _is_interval(value):
            raise DataError(f"{path}: {where}: expected value, low and high, found {value!r:.40}; {REMEDY}")
    return metrics


def read_gallery(results: Path, count: int) -> list[Sample]:
    """The first `count` scored samples, with their images where they were kept."""
    images = {path.name.partition(".")[0]: path for path in sorted((results / "gallery").glob("*"))}
    samples: list[Sample] = []
    for place, row in _rows(results / "captions.jsonl"):
        if len(samples) == count:
            break
        key, references, facts = row.get("key"), row.get("references", []), row.get("facts", {})
        texts = references if isinstance(references, list) else [None]
        if not all(isinstance(text, str) for text in [key, *texts]):
            raise DataError(f"{place}: expected a key and a list of references; {REMEDY}")
        if not isinstance(facts, dict) or not all(isinstance(judged, dict) for judged in facts.values()):
            raise DataError(f"{place}: facts: expected an object for each system; {REMEDY}")
        captions = {name: value for name, value in row.items() if name != "key" and isinstance(value, str)}
        image = images.get(str(key).replace("/", "_"))
        samples.append(Sample(str(key), _data_uri(image) if image else None, references, captions, facts))
    return samples


def read_texts(path: Path) -> list[Text]:
    """The texts that a language model wrote."""
    texts = []
    for place, row in _rows(path):
        if not isinstance(row.get("prompt"), str) or not isinstance(row.get("text"), str):
            raise DataError(f"{place}: expected a prompt and a text; {REMEDY}")
        texts.append(Text(row["prompt"], _number(row, "temperature", place), row["text"]))
    return texts


def _data_uri(path: Path) -> str:
    """An image as a data URI; its bytes, not its name, say what kind it is."""
    content = path.read_bytes()
    kind = next((kind for start, kind in IMAGE_TYPES.items() if content.startswith(start)), None)
    if kind is None:
        raise DataError(f"{path}: not a PNG, JPEG, GIF or WebP image; {REMEDY}")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a JSONL file, each with its place for messages."""
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


def _is_interval(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    numbers = [value.get(name) for name in ("value", "low", "high")]
    return numbers == [None] * 3 or all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
