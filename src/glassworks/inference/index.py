"""`glassworks index`: the vectors of a data set by aligned heads, as an artefact that `glassworks retrieve` searches.

An index is a folder: index.json names the model and the shards by digest and lists the samples, vectors.safetensors holds their vectors. It stays where it
was made and is never changed.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glassworks.artifacts.digests import digest_json, sha256_file, write_json
from glassworks.artifacts.manifest import MANIFEST, faults
from glassworks.artifacts.publication import publish, seal
from glassworks.config.base import nearest
from glassworks.config.data import Options
from glassworks.config.datasets import SPLITS
from glassworks.data.reading import features as stored_features
from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.features import FeatureTable
from glassworks.encoders.tower import Tower
from glassworks.errors import ArtifactError, ConfigError, DataError
from glassworks.inference.model_folders import find_model, find_tower, project_of
from glassworks.models.alignment import KIND, Alignment, prefix
from glassworks.models.saving import CONFIG, WEIGHTS, read_tensors
from glassworks.progress import Progress
from glassworks.tasks.alignment.task import AlignmentTask

INDEX, VECTORS = "index.json", "vectors.safetensors"
FOLDER = "data/indexes"
BATCH = 256
"""Samples embedded at a time."""
DIGITS = 6
"""Decimal digits of a similarity. Rounding makes equal vectors tie on every CPU."""
READ_ONLY = 0o444


class Item(NamedTuple):
    """A sample of the index."""

    key: str
    split: str
    row: int
    """Its number in the shards of the split."""
    texts: list[str]


class Neighbour(NamedTuple):
    """A vector near a query."""

    similarity: float
    """Cosine."""
    item: Item


def read_heads(directory: Path, project: Path) -> Alignment:
    """The aligned heads in a model folder, in eval mode. Raises `ArtifactError` for another kind of model."""
    if find_model(directory, project).get("model") != KIND:
        raise ArtifactError(
            f"{directory}: this model aligns no modalities, so it finds nothing; the task alignment trains those that do"
        )
    return Alignment.load(directory).eval()


def model_digest(directory: Path) -> str:
    """The digest of the files that decide the vectors of a model."""
    return digest_json({name: sha256_file(directory / name) for name in (CONFIG, WEIGHTS)})


def make(directory: Path, dataset: str, project: Path) -> tuple[Path, dict[str, Any]]:
    """Index all splits of a data set with the heads in `directory`, in the project of the model; returns the folder and its counts.

    Features that the stage `features` has stored are read. Others are computed. Raises `ArtifactError` for a data set without shards.
    """
    model, home = read_heads(directory, project), project_of(directory)
    shards = home / "data/shards" / dataset
    if not shards.is_dir():
        known = sorted(folder.name for folder in shards.parent.glob("*"))
        raise ArtifactError(f"{dataset}: there are no shards {shards}{nearest(dataset, known)}")
    splits = {split: ShardDataset(shards, split, verify="first_touch") for split in SPLITS}
    task = _task(directory, model, [one for one in splits.values() if len(one)], dataset)
    items: list[Item] = []
    parts: list[dict[str, Tensor]] = []
    total = sum(map(len, splits.values()))
    with Progress(f"index {dataset}", total, "samples") as progress:
        for split, samples in splits.items():
            rows = task.arrange(samples) if len(samples) else []
            for start in range(0, len(samples), BATCH):
                numbers = range(start, min(start + BATCH, len(samples)))
                batch = task.collate([task.example(rows[number], Options(), 0) for number in numbers])
                with torch.inference_mode():
                    parts.append(task.embed(model, batch))
                for number in numbers:
                    sample = samples[number]
                    items.append(Item(sample.key, split, number, read_captions(sample.members, sample.where)))
                progress.advance(len(numbers))
    if not items:
        raise DataError(f"{shards}: there are no samples to index")
    vectors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    counts = {"samples": {name: int(found.any(1).sum()) for name, found in vectors.items()}}
    digests = {"model": model_digest(directory), "shards": sha256_file(shards / MANIFEST)}
    content = {**digests, "dataset": dataset, "items": [item._asdict() for item in items]}
    return _published(home, directory.resolve().name, content, vectors, counts), counts


def _task(directory: Path, model: Alignment, datasets: list[ShardDataset], dataset: str) -> AlignmentTask:
    """The task of the heads: with stored features of the data set, or with the tower itself where there are none."""
    stored: dict[str, list[FeatureTable]] = {}
    in_loop: dict[str, Tower] = {}
    for name, tower in model.towers.items():
        folder = project_of(directory) / "data/features" / tower["encoder"] / dataset
        table = FeatureTable(folder) if (folder / stored_features.INDEX).is_file() else None
        same = table and table.identity == {key: tower[key] for key in table.identity}
        if table and same and all(map(table.covers, datasets)):
            stored[name] = [table]
        else:
            in_loop[name] = find_tower(directory, tower)
    return AlignmentTask(model.config, model.towers, stored, in_loop)


def _published(
    home: Path, model: str, content: dict[str, Any], vectors: dict[str, Tensor], counts: dict[str, Any]
) -> Path:
    from safetensors.torch import save_file

    name = f"index-{model}-{content['dataset']}"
    work, target = home / ".work" / name, home / FOLDER / model / content["dataset"]
    shutil.rmtree(work, ignore_errors=True)
    staged = work / "output"
    staged.mkdir(parents=True)
    save_file({name: found.contiguous() for name, found in vectors.items()}, staged / VECTORS)
    write_json(staged / INDEX, content)
    seal(staged, counts, {"stage": name, "model": content["model"], "shards": content["shards"]})
    for file in staged.iterdir():
        file.chmod(READ_ONLY)
    publish(staged, target, work / "replaced")
    shutil.rmtree(work, ignore_errors=True)
    return target


@dataclass(frozen=True)
class Index:
    """An index in memory."""

    directory: Path
    dataset: str
    shards: str
    """The digest of the manifest of the shards."""
    items: list[Item]
    vectors: dict[str, Tensor]
    """Unit vectors [N, D] of the N items, by modality; zero where an item lacks it."""

    @classmethod
    def load(cls, directory: Path, model: Path) -> "Index":
        """The index in `directory`. Raises `ArtifactError` if it is damaged, or made with another model than that in `model`."""
        fault = next(faults(directory), None)
        if fault:
            raise ArtifactError(fault)
        content = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        if content["model"] != model_digest(model):
            raise ArtifactError(
                f"{directory}: made with another model than {model} as it is now; "
                f"make it again with `glassworks index {model} {content['dataset']}`"
            )
        items = [Item(**item) for item in content["items"]]
        return cls(directory, content["dataset"], content["shards"], items, read_tensors(directory / VECTORS))

    def nearest(self, query: Tensor, width: int, count: int) -> dict[str, list[Neighbour]]:
        """The `count` items of each modality with the vectors nearest to `query` [D], of the first `width` numbers; the nearest first.

        Every vector is compared. Equally near items are in the order of the shards.
        """
        found = {}
        for name, vectors in self.vectors.items():
            similarities = (prefix(vectors, width) @ prefix(query[None], width)[0]).double().round(decimals=DIGITS)
            similarities[~vectors.any(1)] = -torch.inf
            order = similarities.argsort(descending=True, stable=True)[:count]
            kept = [int(number) for number in order if similarities[number] > -torch.inf]
            found[name] = [Neighbour(float(similarities[number]), self.items[number]) for number in kept]
        return found

    def samples(self) -> dict[str, ShardDataset]:
        """The indexed samples by split. Raises `ArtifactError` if the shards were made again."""
        shards = self.directory.parents[3] / "data/shards" / self.dataset
        manifest = shards / MANIFEST
        if not manifest.is_file() or sha256_file(manifest) != self.shards:
            raise ArtifactError(f"{shards}: not the shards that {self.directory} was made from; make the index again")
        return {split: ShardDataset(shards, split) for split in SPLITS}


def indexed(model: Path) -> list[str]:
    """The data sets that a model has an index of."""
    folder = project_of(model) / FOLDER / model.resolve().name
    return sorted(one.name for one in folder.glob("*") if (one / MANIFEST).is_file())


def find_index(model: Path, dataset: str | None) -> Path:
    """The index of a model: that of `dataset`, or the only one. Raises `ArtifactError` without one, `ConfigError` if there are several."""
    folder = project_of(model) / FOLDER / model.resolve().name
    known = indexed(model)
    if dataset is None and len(known) > 1:
        raise ConfigError(f"--dataset: this model has indexes of {', '.join(known)}; choose one")
    if not known or (dataset is not None and dataset not in known):
        hint = nearest(dataset or "", known)
        wanted = dataset or "DATASET"
        raise ArtifactError(f"{folder}: no index{hint}; make one with `glassworks index {model} {wanted}`")
    return folder / (dataset or known[0])
