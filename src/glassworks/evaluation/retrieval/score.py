"""The evaluation `retrieval`: each sample looks for its partner among all samples of a held-out split, in both directions.

The controls are the same similarities with partners exchanged, and chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.pixels import EXTENSIONS
from glassworks.data.reading.rows import Keyed, Rows
from glassworks.errors import DataError
from glassworks.evaluation.bootstrap import mean_interval
from glassworks.evaluation.retrieval.labels import FOUND, labels
from glassworks.evaluation.retrieval.settings import RetrievalEvaluation
from glassworks.evaluation.scoring import Item, Scoring, exchanged
from glassworks.models.alignment import Alignment
from glassworks.training.objective import to_device

RANKS = (1, 5, 10)
"""The k of recall@k."""
GALLERY_SIZE = 60
"""Images kept for the report's gallery."""
DIGITS = 6
"""Decimal digits of a similarity. Rounding makes equal vectors tie on every CPU."""


class RetrievalTask(Protocol):
    """A task whose models this evaluation can score."""

    def arrange(self, dataset: ShardDataset) -> Rows[Keyed]:
        """The rows of a split, one for each sample."""

    def example(self, row: Any, part: Any, seed: int) -> Any:
        """One row as an example, with the options of its data set."""

    def collate(self, examples: list[Any]) -> Any:
        """Examples as a batch."""

    def embed(self, model: Alignment, batch: Any) -> dict[str, Tensor]:
        """Unit vectors [B, D] by modality."""


def run(scoring: Scoring, config: RetrievalEvaluation, task: RetrievalTask, model: Alignment) -> int:
    """Rank all partners of every sample of the split; returns the number of samples."""
    dataset, count = scoring.scored(config)
    rows = task.arrange(dataset)
    chosen = _first_of_groups(dataset, count) if config.one_per_group else list(range(count))
    if len(chosen) < 2:
        raise DataError(f"{dataset.directory}: the {config.split} split has one group; retrieval needs at least 2")

    @torch.inference_mode()
    def embed(batch: range) -> list[Item]:
        examples = [task.example(rows[chosen[index]], scoring.part, 0) for index in batch]
        vectors = task.embed(model, to_device(task.collate(examples), scoring.workers.device))
        lists = {name: tensor.float().cpu().tolist() for name, tensor in vectors.items()}
        return [
            {"key": example.key, "vectors": {name: values[row] for name, values in lists.items()}}
            for row, example in enumerate(examples)
        ]

    embedded = scoring.in_batches(len(chosen), config.batch_size, embed, "samples")
    if not scoring.workers.first:
        return len(chosen)
    keys = [item["key"] for item in embedded]
    vectors = {name: np.array([item["vectors"][name] for item in embedded]) for name in embedded[0]["vectors"]}
    similarities = {
        f"{query}_to_{answer}": (vectors[query] @ vectors[answer].T).round(DIGITS)
        for query, answer in permutations(vectors, 2)
    }
    other = exchanged(keys, scoring.seed, "shuffled pairs")
    ranks = {
        "model": {name: ranks_of(found, np.arange(len(keys))) for name, found in similarities.items()},
        "shuffled": {name: ranks_of(found, other) for name, found in similarities.items()},
    }

    def scores(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {name: summary(own, resamples=config.bootstrap, seed=scoring.seed) for name, own in found.items()}

    metrics = {
        "samples": len(keys),
        "split": config.split,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "temperature": round(1 / model.scale().item(), DIGITS),
        "systems": {
            **{system: scores(found) for system, found in ranks.items()},
            "chance": {name: chance(len(keys)) for name in similarities},
        },
    }
    captions = _captions(dataset, chosen)
    pictured = {"image", "text"} <= vectors.keys() and all(captions)
    items = _items(keys, captions, ranks["model"], similarities if pictured else {})
    gallery = _images(dataset, chosen[:GALLERY_SIZE]) if pictured else ()
    scoring.write(metrics, labels(metrics, config, pictured), items, gallery)
    return len(keys)


def ranks_of(similarities: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """The rank [N] of each query's partner, from 1. `similarities` [N, N] has a row for each query, `partners` [N] the column of its partner.

    Candidates that are as similar as the partner count as better: vectors that are all equal earn nothing.
    """
    own = np.take_along_axis(similarities, partners[:, None], axis=1)
    ranks: np.ndarray = (similarities >= own).sum(axis=1)
    return ranks


def summary(ranks: np.ndarray, *, resamples: int, seed: int) -> dict[str, Any]:
    """Recall@k with 95 % intervals over the queries, and the median rank."""
    recalls = {f"recall@{k}": mean_interval(ranks <= k, resamples=resamples, seed=seed) for k in RANKS}
    return {**recalls, "median_rank": float(np.median(ranks))}


def chance(count: int) -> dict[str, Any]:
    """The expected scores of a random order of `count` candidates."""
    return {**{f"recall@{k}": round(min(k / count, 1), DIGITS) for k in RANKS}, "median_rank": (count + 1) / 2}


def _first_of_groups(dataset: ShardDataset, count: int) -> list[int]:
    """The first sample of each group."""
    first: dict[str, int] = {}
    for index in range(count):
        sample = dataset[index]
        first.setdefault(str(sample.json().get("group", sample.key)), index)
    return list(first.values())


def _captions(dataset: ShardDataset, chosen: Sequence[int]) -> list[list[str]]:
    return [read_captions(sample.members, sample.where) for sample in (dataset[index] for index in chosen)]


def _items(
    keys: Sequence[str],
    captions: Sequence[list[str]],
    ranks: Mapping[str, np.ndarray],
    similarities: Mapping[str, np.ndarray],
) -> Iterator[Item]:
    """The ranks of each sample, its captions, and the nearest text of another or the same sample."""
    nearest = similarities["image_to_text"].argmax(axis=1) if similarities else None
    for index, key in enumerate(keys):
        item: Item = {"key": key, "ranks": {name: int(found[index]) for name, found in ranks.items()}}
        if nearest is not None:
            hits = {f"in the first {k}": item["ranks"]["image_to_text"] <= k for k in RANKS}
            item |= {
                "references": captions[index],
                FOUND: captions[nearest[index]][0],
                "hits": {FOUND: hits},
            }
        yield item


def _images(dataset: ShardDataset, chosen: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """File name and content of each image."""
    for sample in (dataset[index] for index in chosen):
        extension = next((name for name in EXTENSIONS if name in sample.members), None)
        if extension:
            yield f"{sample.key.replace('/', '_')}.{extension}", bytes(sample.members[extension])
