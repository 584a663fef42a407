"""The evaluation `retrieval`: each sample looks for its partner among all samples of a held-out split, between all modalities in both directions.

A direction counts the samples that have both modalities. One whose pair was not trained is emergent. Matryoshka embeddings are scored at every width.
The controls are the same similarities with partners exchanged, ridge regression between the features, ASIF, and chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import permutations
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from glassworks.config.datasets import Split
from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.rows import Keyed, Rows
from glassworks.errors import DataError
from glassworks.evaluation.bootstrap import mean_interval
from glassworks.evaluation.media import media
from glassworks.evaluation.retrieval.asif import Asif
from glassworks.evaluation.retrieval.labels import GAIN, found_by, labels
from glassworks.evaluation.retrieval.ranks import DIGITS, Similarities
from glassworks.evaluation.retrieval.ridge import Ridge, unit
from glassworks.evaluation.retrieval.settings import RetrievalEvaluation
from glassworks.evaluation.scoring import Item, Scoring, exchanged
from glassworks.models.alignment import Alignment
from glassworks.training.objective import to_device

RANKS = (1, 5, 10)
"""The k of recall@k."""
GALLERY_SIZE = 60
"""Samples whose images and sounds are kept for the report's gallery."""
READ = 256
"""Samples whose features are read at a time."""


class RetrievalTask(Protocol):
    """A task whose models this evaluation can score."""

    towers: Mapping[str, dict[str, Any]]
    """The features of each modality, with their `width`."""

    def arrange(self, dataset: ShardDataset) -> Rows[Keyed]:
        """The rows of a split, one for each sample."""

    def example(self, row: Any, part: Any, seed: int) -> Any:
        """One row as an example, with the options of its data set."""

    def collate(self, examples: list[Any]) -> Any:
        """Examples as a batch."""

    def pooled(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features [B, C] by modality, the mean of tokens, and whether a sample has it [B]."""

    def embed(self, model: Alignment, batch: Any) -> dict[str, Tensor]:
        """Unit vectors [B, D] by modality, zero where a sample lacks it."""


def run(scoring: Scoring, config: RetrievalEvaluation, task: RetrievalTask, model: Alignment) -> int:
    """Rank all partners of every sample of the split; returns the number of samples."""
    dataset, count = scoring.scored(config)
    chosen = _first_of_groups(dataset, count) if config.one_per_group else list(range(count))
    if len(chosen) < 2:
        raise DataError(f"{dataset.directory}: the {config.split} split has one group; retrieval needs at least 2")
    rows = task.arrange(dataset)

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
    pairs = _pairs(vectors, dataset)
    directions = {f"{one}_to_{other}": (one, other) for one, other in pairs}
    both = {
        name: np.flatnonzero(vectors[one].any(1) & vectors[other].any(1)) for name, (one, other) in directions.items()
    }
    similarities = {
        width: {
            name: Similarities(*(unit(vectors[side][both[name]][:, :width]) for side in sides))
            for name, sides in directions.items()
        }
        for width in model.config.prefixes
    }
    full, *narrow = similarities
    ranks = {
        "model": {name: found.ranks(np.arange(len(found))) for name, found in similarities[full].items()},
        **{
            f"width_{width}": {name: found.ranks(np.arange(len(found))) for name, found in similarities[width].items()}
            for width in narrow
        },
        "shuffled": {
            name: found.ranks(exchanged([keys[index] for index in both[name]], scoring.seed, "shuffled pairs"))
            for name, found in similarities[full].items()
        },
    }
    known = _known(scoring, config, task, chosen)
    for system, control in (("ridge", _ridge), ("asif", _asif)):
        if known and (found := control(known, model, directions, both)):
            ranks[system] = {name: own.ranks(np.arange(len(own))) for name, own in found.items()}
    metrics = {
        "samples": len(keys),
        "split": config.split,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "temperature": round(1 / model.scale().item(), DIGITS),
        "queries": {name: len(found) for name, found in both.items()},
        "emergent": [name for name, pair in directions.items() if not _is_trained(model, pair)],
        "systems": {
            **{
                system: {
                    name: summary(own, resamples=config.bootstrap, seed=scoring.seed) for name, own in found.items()
                }
                for system, found in ranks.items()
            },
            "chance": {name: chance(len(found)) for name, found in both.items()},
        },
    }
    captions = _captions(dataset, chosen)
    texts = {
        name: both[f"{name}_to_text"][similarities[full][f"{name}_to_text"].nearest()]
        for name in vectors
        if f"{name}_to_text" in directions and all(captions)
    }
    places = {name: {int(index): place for place, index in enumerate(found)} for name, found in both.items()}
    items = _items(keys, captions, ranks["model"], places, texts)
    gallery = media(dataset, chosen[:GALLERY_SIZE]) if texts else ()
    scoring.write(metrics, labels(metrics, config, list(model.config.prefixes), list(texts)), items, gallery)
    return len(keys)


def _pairs(vectors: Mapping[str, np.ndarray], dataset: ShardDataset) -> list[tuple[str, str]]:
    """The ordered pairs of modalities that at least two samples have. Raises `DataError` if there are none."""
    found = [
        pair for pair in permutations(vectors, 2) if (vectors[pair[0]].any(1) & vectors[pair[1]].any(1)).sum() >= 2
    ]
    if not found:
        raise DataError(f"{dataset.directory}: fewer than 2 samples have two of the modalities {', '.join(vectors)}")
    return found


def _is_trained(model: Alignment, pair: tuple[str, str]) -> bool:
    return any(set(pair) == set(trained) for trained in model.pairs)


Features = dict[str, np.ndarray]
"""Features [N, C] in float64 by tower; zero where a sample lacks the modality."""


class _Known(NamedTuple):
    """The features of training samples, of held-out samples that are not scored, and of the scored samples."""

    train: Features
    held_out: Features
    scored: Features

    def pair(self, part: Features, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
        """The features of two towers, of the samples that have both."""
        both = part[first].any(1) & part[second].any(1)
        return part[first][both], part[second][both]


def _known(scoring: Scoring, config: RetrievalEvaluation, task: RetrievalTask, chosen: Sequence[int]) -> _Known | None:
    """The features that the controls read; None without a training split or with `ridge: 0`."""
    folder = scoring.inputs["shards"]
    held_out: Split = (
        "test" if config.split == "validation" else "validation"
    )  # the penalty is not chosen on scored samples
    splits = [ShardDataset(folder, split, verify="first_touch") for split in ("train", held_out, config.split)]
    rows = [range(min(len(samples), config.ridge)) for samples in splits[:2]]
    if len(rows[0]) < 2:
        return None
    return _Known(*(_features(scoring, task, split, some) for split, some in zip(splits, [*rows, chosen], strict=True)))


def _asif(
    known: _Known, model: Alignment, directions: Mapping[str, tuple[str, str]], both: Mapping[str, np.ndarray]
) -> dict[str, Similarities]:
    """The similarities of each trained direction by ASIF. An emergent pair has no anchors that training has seen."""
    found = {}
    for name, (one, other) in directions.items():
        anchors = known.pair(known.train, one, other)
        if len(anchors[0]) >= 2 and _is_trained(model, (one, other)):
            fitted = Asif(*anchors)
            fitted.choose(*known.pair(known.held_out, one, other))
            found[name] = Similarities(*fitted.vectors(*(known.scored[side][both[name]] for side in (one, other))))
    return found


def _ridge(
    known: _Known, model: Alignment, directions: Mapping[str, tuple[str, str]], both: Mapping[str, np.ndarray]
) -> dict[str, Similarities]:
    """The similarities of each direction by ridge regression between features.

    A trained pair is compared in the features of its second tower. An emergent pair is compared in those of a tower to which both have a trained pair, so
    that its control has not seen the pair either.
    """

    @cache
    def into(source: str, target: str) -> np.ndarray | None:
        """The features of the scored samples in the space of `target`, centred; None without samples to fit."""
        pairs = known.pair(known.train, source, target)
        if len(pairs[0]) < 2:
            return None
        if source == target:
            return known.scored[source] - pairs[0].mean(0)
        fitted = Ridge(*pairs)
        fitted.choose(*known.pair(known.held_out, source, target))
        return fitted.predict(known.scored[source])

    found = {}
    for name, pair in directions.items():
        first, second = sorted(pair, key=list(model.towers).index)
        space = next((one[1] for one in model.pairs if set(one) == {first, second}), None)
        if space is None:
            hubs = [
                hub for hub in known.train if _is_trained(model, (first, hub)) and _is_trained(model, (second, hub))
            ]
            space = hubs[0] if hubs else second
        sides = [into(side, space) for side in pair]
        if sides[0] is not None and sides[1] is not None:
            found[name] = Similarities(*(unit(side[both[name]]) for side in sides if side is not None))
    return found


@torch.inference_mode()
def _features(scoring: Scoring, task: RetrievalTask, dataset: ShardDataset, chosen: Sequence[int]) -> Features:
    """The features of these samples."""
    rows, parts = task.arrange(dataset), []
    for start in range(0, len(chosen), READ):
        examples = [task.example(rows[index], scoring.part, 0) for index in chosen[start : start + READ]]
        values, present = task.pooled(to_device(task.collate(examples), scoring.workers.device))
        parts.append({name: (value * present[name][:, None]).cpu().double().numpy() for name, value in values.items()})
    if not parts:
        return {name: np.zeros((0, int(tower["width"]))) for name, tower in task.towers.items()}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def summary(ranks: np.ndarray, *, resamples: int, seed: int) -> dict[str, Any]:
    """Recall@k and nDCG@10 with 95 % intervals over the queries, and the median rank."""
    recalls = {f"recall@{k}": mean_interval(ranks <= k, resamples=resamples, seed=seed) for k in RANKS}
    gain = mean_interval(gains(ranks), resamples=resamples, seed=seed)
    return {**recalls, GAIN: gain, "median_rank": float(np.median(ranks))}


def gains(ranks: np.ndarray) -> np.ndarray:
    """nDCG@10 [N] of queries with one right answer: 1 / log2(1 + rank) within the first ten, else 0."""
    found: np.ndarray = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)
    return found


def chance(count: int) -> dict[str, Any]:
    """The expected scores of a random order of `count` candidates."""
    recalls = {f"recall@{k}": round(min(k / count, 1), DIGITS) for k in RANKS}
    gain = round(float(gains(np.arange(1, count + 1)).mean()), DIGITS)
    return {**recalls, GAIN: gain, "median_rank": (count + 1) / 2}


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
    places: Mapping[str, Mapping[int, int]],
    texts: Mapping[str, np.ndarray],
) -> Iterator[Item]:
    """The ranks of each sample, its captions, and the text nearest to its image or its speech.

    `places` maps samples to their rank in each direction, `texts` holds the sample of the nearest text of each query.
    """
    for index, key in enumerate(keys):
        own = {name: int(found[places[name][index]]) for name, found in ranks.items() if index in places[name]}
        item: Item = {"key": key, "ranks": own}
        if texts:
            item |= {"references": captions[index], "hits": {}}
            for name, nearest in texts.items():
                direction = f"{name}_to_text"
                if index in places[direction]:
                    item[found_by(name)] = captions[nearest[places[direction][index]]][0]
                    item["hits"][found_by(name)] = {f"in the first {k}": own[direction] <= k for k in RANKS}
        yield item
