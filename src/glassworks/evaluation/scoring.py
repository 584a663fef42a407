"""Input and output of an evaluation: the samples, the workers that share them, and the result files.

The batches of a split do not depend on the number of workers, so any number of workers gives the same bytes.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from glassworks.artifacts.digests import write_json, write_text
from glassworks.config.data import Options
from glassworks.config.evaluation import Evaluation as Settings
from glassworks.data.reading.dataset import JoinedShards, ShardDataset
from glassworks.data.reading.rows import Samples
from glassworks.data.splits import share
from glassworks.errors import DataError
from glassworks.evaluation.labels import GALLERY, ITEMS, LABELS, METRICS, Labels, look_up
from glassworks.progress import Progress
from glassworks.training.workers import Workers

Item = dict[str, Any]
"""A JSON object."""
SCORES = "plots/scores.tsv"


class Stop(Protocol):
    """Signals received by this process."""

    def check(self) -> None:
        """Raise if this process received a signal to stop."""


@dataclass(frozen=True)
class Scoring:
    """The context of one evaluation in one worker."""

    name: str
    """Name of the stage, for messages."""
    inputs: dict[str, Path]
    """Directories of the input artefacts, by role."""
    work: Path
    """Folder for files shared by the workers."""
    output: Path
    """Folder of the results."""
    seed: int
    workers: Workers
    stop: Stop
    part: Options
    """Options of the task for the scored data set."""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    """Facts about the machine that may change bytes, such as the presence of Java."""

    def scored(self, config: Settings) -> tuple[ShardDataset, int]:
        """The split to score and the number of samples to score. Raises `DataError` if there are fewer than two."""
        dataset = ShardDataset(self.inputs["shards"], config.split, verify="first_touch")
        count = min(len(dataset), config.max_samples or len(dataset))
        if count < 2:
            raise DataError(
                f"{self.inputs['shards'].name}: the {config.split} split has {count} samples; scoring needs at least 2"
            )
        return dataset, count

    def training(self) -> Samples:
        """The training samples of the model, of all data sets of a mixture."""
        folders = [folder for role, folder in self.inputs.items() if role.startswith("training_shards")]
        return JoinedShards([ShardDataset(folder, "train", verify="first_touch") for folder in folders])

    def in_batches(
        self, count: int, batch_size: int, score: Callable[[range], Sequence[Item]], unit: str
    ) -> list[Item]:
        """The rows of `score` for all batches of `range(count)`, in order and on every rank. The workers share the batches."""
        batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
        own = self.workers.part(len(batches))
        rows: list[Item] = []
        with Progress(self.name, count, unit, silent=not self.workers.first) as progress:
            for number in own:
                self.stop.check()
                rows += _finite(
                    score(batches[number]), f"{self.name}: {unit} {batches[number].start} to {batches[number].stop - 1}"
                )
                progress.advance(min(self.workers.size * len(batches[number]), count - progress.done))
        return self._gathered(rows)

    def write(
        self, metrics: dict[str, Any], labels: Labels, items: Iterable[Item], gallery: Iterable[tuple[str, bytes]] = ()
    ) -> None:
        """Write metrics.json, labels.json, items.jsonl, plots/scores.tsv and the files of the gallery (name, content)."""
        write_json(self.output / METRICS, metrics)
        write_json(self.output / LABELS, labels.model_dump(mode="json", exclude_defaults=True))
        lines = (json.dumps(item, sort_keys=True, ensure_ascii=False) + "\n" for item in items)
        write_text(self.output / ITEMS, "".join(lines))
        (self.output / SCORES).parent.mkdir()
        write_text(self.output / SCORES, scores_tsv(metrics, labels))
        for name, content in gallery:
            (self.output / GALLERY).mkdir(exist_ok=True)
            (self.output / GALLERY / name).write_bytes(content)

    def _gathered(self, rows: list[Item]) -> list[Item]:
        """The rows of all workers, in rank order."""
        if self.workers.size == 1:
            return rows
        device = self.workers.device
        own = torch.frombuffer(bytearray(json.dumps(rows).encode()), dtype=torch.uint8).to(device)
        lengths = self.workers.gather(torch.tensor([len(own)], device=device)).tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
        padded[: len(own)] = own
        parts = self.workers.gather(padded).cpu().reshape(len(lengths), -1)
        texts = [part[:length].numpy().tobytes() for part, length in zip(parts, lengths, strict=True)]
        return [row for text in texts for row in json.loads(text)]


def exchanged(keys: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    """For each sample the index of another one: its neighbour in a hash order, which `purpose` names."""
    order = sorted(range(len(keys)), key=lambda index: share(seed, purpose, keys[index]))
    others = np.empty(len(keys), dtype=np.int64)
    others[order] = np.roll(order, 1)
    return others


def _finite(rows: Sequence[Item], where: str) -> Sequence[Item]:
    """The rows. Raises `DataError` if a number in them is NaN or infinite."""
    try:
        json.dumps(rows, allow_nan=False)
    except ValueError:
        raise DataError(
            f"{where}: a score is NaN or infinite; look at these samples, or train the model again"
        ) from None
    return rows


def scores_tsv(metrics: dict[str, Any], labels: Labels) -> str:
    """The table as TSV with the columns system, metric, value, low, high, for `dvc plots` and spreadsheets."""
    lines = ["system\tmetric\tvalue\tlow\thigh"]
    for row in labels.table.rows if labels.table else ():
        for metric, where in row.cells.items():
            found = look_up(metrics, where)
            found = found if isinstance(found, dict) else {"value": found, "low": found, "high": found}
            if found["value"] is not None:
                lines.append(f"{row.name}\t{metric}\t{found['value']}\t{found['low']}\t{found['high']}")
    return "\n".join(lines) + "\n"
