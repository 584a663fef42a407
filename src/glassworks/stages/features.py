"""The stage `features`: the features of a data set by a frozen encoder, computed once. Jobs encode contiguous blocks of shards in parallel.

The features of a sample are a function of the sample, the encoder and the device: batches have a fixed shape, and their neighbours do not count.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from glassworks.artifacts.digests import sha256_file, write_json
from glassworks.config import registry
from glassworks.config.datasets import SPLITS
from glassworks.config.encoder import Encoder, ImageEncoder
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.features import FRAMES, INDEX, KEYS, PRESENT
from glassworks.data.shards import link_or_copy
from glassworks.encoders.protocol import Reading
from glassworks.encoders.tower import Tower, identity, load_tower
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import Progress
from glassworks.runtime.launch import card, device_kind
from glassworks.training.determinism import make_deterministic

READ = 256
"""Decoded images, frames or other samples held at a time, at least one batch."""


class Block:
    """The samples of one shard."""

    def __init__(self, dataset: ShardDataset, shard: int) -> None:
        self.dataset, self.listed = dataset, dataset.shards[shard]
        stop = dataset.ends[shard]
        self.rows = range(stop - dataset.shard_sizes[shard], stop)
        self.file = self.listed["tar"].removesuffix(".tar") + ".safetensors"


def run_job(context: Context, job: int) -> dict[str, Any]:
    """The features of the shards of job `job`, in the work directory. Complete files of an interrupted run are kept."""
    blocks, jobs = list_blocks(context), context.stage.jobs
    mine = blocks[len(blocks) * job // jobs : len(blocks) * (job + 1) // jobs]
    encode(context, mine, f"{context.stage.name} job {job}")
    return {"shards": [block.file for block in mine], "samples": sum(len(block.rows) for block in mine)}


def run(context: Context) -> dict[str, Any]:
    """The counts of the artefact. Encodes the shards that no job has encoded, and collects all."""
    device = device_kind(context.params["device"])
    context.fingerprint.update(device=device, **card(torch.device(device)))
    blocks = list_blocks(context)
    encode(context, blocks, context.stage.name)
    folder = context.work / "features"
    listed, missing = [], 0
    for block in blocks:
        link_or_copy(folder / block.file, context.output / block.file)
        entry = {"file": block.file, "split": block.listed["split"], "samples": len(block.rows)}
        sha256 = sha256_file(folder / block.file)
        listed.append({**entry, "sha256": sha256, "tar_sha256": block.listed["sha256"]})
        with safe_open(folder / block.file, "pt") as opened:
            width = opened.get_slice("features").get_shape()[-1]
            if PRESENT in opened.keys():  # noqa: SIM118 (not a mapping)
                missing += int((~opened.get_tensor(PRESENT)).sum())
    total = sum(len(block.rows) for block in blocks)
    if missing == total:
        raise DataError(
            f"{context.stage.name}: no sample of {context.stage.part!r} has what this encoder reads; look at the data"
        )
    if missing:
        print(f"{context.stage.name}: {missing:,} of {total:,} samples lack what this encoder reads", file=sys.stderr)
    index = {
        "encoder": context.stage.subject,
        "identity": identity(_settings(context), context.inputs["weights"]),
        "dataset": context.stage.part,
        "width": width,
        "shards": listed,
    }
    write_json(context.output / INDEX, index)
    samples = {split: sum(shard["samples"] for shard in listed if shard["split"] == split) for split in SPLITS}
    size = sum((context.output / block.file).stat().st_size for block in blocks)
    counts = {"samples": samples, "shards": len(blocks), "bytes": size, "width": width}
    return counts | ({"missing": missing} if missing else {})


def list_blocks(context: Context) -> list[Block]:
    """All shards of the data set, split by split."""
    datasets = [ShardDataset(context.inputs["shards"], split, verify="first_touch") for split in SPLITS]
    return [Block(dataset, shard) for dataset in datasets for shard in range(len(dataset.shards))]


def encode(context: Context, blocks: list[Block], label: str) -> None:
    """Write the missing files of `blocks` to the work directory. A file is renamed when it is complete."""
    folder = context.work / "features"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [block for block in blocks if not (folder / block.file).is_file()]
    if not missing:
        return
    device = device_kind(context.params["device"])
    make_deterministic()
    tower = load_tower(context.stage.subject, _settings(context), context.inputs["weights"])
    total, left = (sum(len(block.rows) for block in some) for some in (blocks, missing))
    with Progress(label, total, "samples", initial=total - left) as progress:
        for block in missing:
            _write(tower, block, folder / block.file, device, progress)


def _write(tower: Tower, block: Block, path: Path, device: str, progress: Progress) -> None:
    """One file: the tensors of `Tower.features` for all samples of a shard, and their keys in the metadata. Every picture of a sample has a row."""
    step = max(1, READ // tower.settings.batch_size) * tower.settings.batch_size
    if isinstance(tower.settings, ImageEncoder):
        clips, tiles = tower.settings.clips, tower.settings.tiles
        most = max(0 if clips is None else clips.frames, 0 if tiles is None else 1 + tiles.most)
        step = max(1, READ // most) if most else step
    keys, parts, counts = [], [], []
    for start in range(block.rows.start, block.rows.stop, step):
        samples = [block.dataset[index] for index in range(start, min(start + step, block.rows.stop))]
        readings: list[Reading | None] = []
        for sample in samples:
            pictures = tower.pictures(sample)
            readings += [picture.reading for picture in pictures] or [None]
            counts.append(0 if [picture.kind for picture in pictures] in ([], ["image"]) else len(pictures))
        parts.append(tower.features_of(readings, device))
        keys += [sample.key for sample in samples]
        progress.advance(len(samples), block.file)
    tensors = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    if any(counts):
        tensors[FRAMES] = torch.tensor(counts)
        rows = tensors[FRAMES].clamp(min=1)
        tensors[PRESENT] = tensors[PRESENT][rows.cumsum(0) - rows]
    if tensors[PRESENT].all():
        del tensors[PRESENT]
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    # One entry of metadata only: safetensors writes several in random order.
    save_file(tensors, temporary, metadata={KEYS: json.dumps(keys, ensure_ascii=False)})
    temporary.replace(path)


def _settings(context: Context) -> Encoder:
    entry = context.params["encoder"]
    return registry.settings_class("encoders", entry["encoder"], Encoder).model_validate_json(json.dumps(entry))
