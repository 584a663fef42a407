"""Small shards for tests, written by the stage's own functions."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from glassworks.artifacts.digests import write_json
from glassworks.data.records import Record
from glassworks.data.shards import Plan, write_tar
from glassworks.data.sidecars import INDEX, read_sidecar


def picture(seed: int, size: tuple[int, int] = (24, 16), kind: str = "PNG", mode: str = "RGB", **options) -> bytes:
    """An image file; the pattern depends on `seed`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert("RGB" if mode not in ("RGBA", "LA") else "RGBA").convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def record(number: int, split: str = "train") -> Record:
    return Record(f"k{number:03d}", split, f"g{number}", [f"caption {number}"], {"number": number})


def media(record: Record) -> dict[str, bytes]:
    return {"png": picture(record.labels["number"])} if record.labels else {}


def make_shards(
    directory: Path, per_shard: int = 7, make: Callable[[int, str], Record] = record, **samples: int
) -> Path:
    """A finished shard directory with that many samples in each split, each from its number."""
    directory.mkdir(parents=True)
    listed, number = [], 0
    for split, count in samples.items():
        records = [make(number + i, split) for i in range(count)]
        number += count
        for index, start in enumerate(range(0, count, per_shard)):
            plan = Plan(f"{split}-{index:05d}", split, records[start : start + per_shard])
            list(write_tar(directory, plan, media))
            sidecar = read_sidecar(directory / f"{plan.name}.json")
            entry = {"tar": sidecar.tar, "split": split, "samples": len(sidecar.samples)}
            listed.append({**entry, "sha256": sidecar.sha256, "size": sidecar.size})
    write_json(directory / INDEX, {"shards": listed})
    return directory
