"""A project whose artefacts are made by hand: what the report reads, without training anything."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glassworks.artifacts.publication import seal
from glassworks.evaluation.captions.labels import labels
from glassworks.evaluation.captions.settings import CaptionsEvaluation
from glassworks.pipeline.execution import Context
from glassworks.stages.report import run

EXPERIMENT = {"task": "captioning", "data": {"dataset": "scenes"}, "training": {"steps": 40, "batch_size": 8}}
PARAMS = {
    "seed": 5,
    "datasets": {
        "openmoji": {"source": "openmoji"},
        "scenes": {"source": "scenes", "sprites": "openmoji", "samples": {"train": 90, "test": 12}},
    },
    "report": {"title": "Glass & <b>bold</b>", "gallery": 4},
}
ATTACK = '<script>alert(1)</script> & "a cat" <img src=x onerror=alert(1)> <!-- glassworks:timings -->'


def interval(value: float | None, width: float = 0.02) -> dict[str, float | None]:
    return {"value": value, "low": value and value - width, "high": value and value + width}


def system(cider: float, objects: float | None) -> dict[str, Any]:
    scores = {"cider": interval(cider), "bleu1": interval(0.7), "bleu4": interval(0.4), "rouge_l": interval(0.6)}
    return {**scores, "objects": interval(objects), "counts": interval(None), "relations": interval(0.5)}


METRICS = {
    "samples": 12,
    "systems": {
        "greedy": system(2.5, 0.8),
        "beam": system(2.7, 0.9),
        "blank": system(0.1, 0.0),
        "shuffled": system(0.3, 0.1),
        "most_frequent": system(0.2, 0.0),
    },
    "perplexity": interval(3.25),
    "parameters": 123_456,
    "split": "test",
}


def png(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), color).save(file, "PNG")
    return file.getvalue()


def results(metrics: dict[str, Any], items: str) -> dict[str, bytes | str]:
    """The files of an evaluation of captions."""
    shown = labels(METRICS, CaptionsEvaluation()).model_dump_json(exclude_defaults=True)
    return {"metrics.json": json.dumps(metrics), "labels.json": shown, "items.jsonl": items}


class MadeProject:
    """A small project (tests/conftest.py) and hand-made artefacts in it."""

    def __init__(self, small: Any) -> None:
        self.small, self.root = small, small.root
        small.configure(PARAMS, first=EXPERIMENT)

    def make(self, stage: str, files: dict[str, bytes | str], counts: dict[str, Any] | None = None) -> Path:
        """An artefact of a stage with these files."""
        directory = self.root / self.small.table[stage].directory
        for name, content in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        directory.mkdir(parents=True, exist_ok=True)
        seal(directory, counts or {}, self.recipe(stage))
        return directory

    def recipe(self, stage: str) -> dict[str, Any]:
        fingerprint = {"cpu_isa": "avx2", "device": "cpu", "versions": {"torch": "2.12.1"}}
        return {"stage": stage, "key": f"key-of-{stage}", "code": "c0de" * 16, "inputs": {}, "fingerprint": fingerprint}

    def make_all(self, metrics: dict[str, Any] | None = None, log: str | None = None, rows: str | None = None) -> None:
        """Shards of two data sets, a training run of 40 steps, and the evaluation of 12 images."""
        for name in ("openmoji", "scenes"):
            counts = {
                "samples": {"test": 12, "train": 1234, "validation": 7},
                "shards": 3,
                "bytes": 4_500_000,
            }
            dropped = [{"where": "row 3", "reason": "no caption"}, {"where": "row 9", "reason": "no image"}]
            self.make(f"records-{name}", {"dropped.json": json.dumps(dropped)}, {"captions": 5000, "dropped": 2})
            self.make(f"shards-{name}", {"train-00000.tar": b"tar"}, counts)
        self.make("train-first", {"metrics.jsonl": training_log() if log is None else log}, {"parameters": 123_456})
        gallery = {f"gallery/s{number}.png": png("red") for number in range(3)}
        captions = caption_lines() if rows is None else rows
        self.make("evaluate-first-captions", results(METRICS | (metrics or {}), captions) | gallery)

    def context(self, work: str) -> Context:
        return self.small.context("report", self.root / work)

    def report(self, work: str = "w") -> Path:
        """Run the stage; returns the directory with its files."""
        context = self.context(work)
        run(context)
        return context.output


def training_log(groups: dict[str, Callable[[int], float]] | None = None) -> str:
    """Rows of 40 steps; the learning rate of a group is a function of the step, as a share of that of the rest."""
    rows: list[dict[str, float]] = []
    for step in range(1, 41):
        rate = 1e-3 * step / 40
        of_groups = {f"learning_rate.{name}": share(step) * rate for name, share in (groups or {}).items()}
        loss = 5 / step + 0.1 * math.sin(step)
        rows.append({"step": step, "loss": loss, "learning_rate": rate, **of_groups, "loss_scale": 65536.0})
        if step % 10 == 0:
            rows.append({"step": step, "validation_loss": 5 / step + 0.2, "validation_accuracy": 0.5})
    return "".join(json.dumps(row) + "\n" for row in rows)


def caption_lines() -> str:
    rows = []
    for number in range(12):
        facts = {"greedy": {"objects": number % 2 == 0, "counts": None, "relations": True, "ground": None}}
        texts = {"greedy": ATTACK if number == 1 else f"a cat {number}", "beam": f"two dogs {number}"}
        references = [f"a <cat> & dog {number}", f"another {number}"]
        rows.append({"key": f"s{number}", **texts, "references": references, "labels": {}, "facts": facts})
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def made(project: Any) -> MadeProject:
    return MadeProject(project)


@pytest.fixture
def texts() -> Callable[[str], str]:
    """The text of an HTML page as a reader sees it."""
    from html.parser import HTMLParser

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.parts: list[str] = []
            self.inside: list[str] = []

        def handle_starttag(self, tag: str, attributes: Any) -> None:
            self.inside.append(tag)

        def handle_endtag(self, tag: str) -> None:
            while self.inside and self.inside.pop() != tag:
                pass

        def handle_data(self, data: str) -> None:
            if "style" not in self.inside:
                self.parts.append(data)

    def read(page: str) -> str:
        reader = Reader()
        reader.feed(page)
        return " ".join(" ".join(reader.parts).split())

    return read
