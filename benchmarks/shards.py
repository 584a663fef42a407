"""Writing and reading shards beside `webdataset`, and resuming. Prints ratios; asserts that both sides give the same.

    python benchmarks/shards.py [--quick]

(a) Writing: `webdataset.ShardWriter` writes the tars; our side writes the same tars, byte for byte, and also computes
    sha256, CRCs and the index of every member, with the sidecar files. The peer does neither.
(b) Reading: four shuffled epochs of 256 px JPEGs with two worker processes, their start included. Each side
    delivers batches of (keys, tensor [B, 3, 256, 256] in RGB): once float32 in 0 … 1, once uint8. The peer is
    webdataset's documented pipeline (shuffle, decode "torchrgb" or "torchrgb8", to_tuple, batched, WebLoader); a second
    peer decodes with our decoder, which no built-in option of webdataset does. Our side is the loader that training
    uses: ShardDataset, Order and micro_batches; uint8 travels from the workers, and floats are made on arrival.
(c) Resuming: time to the first batch at 90 % of an epoch beside that at its start, opening the data set included; and
    the same for the order alone on ten million samples.

Sides alternate. The median of the ratios of all pairs is printed, with their range, and the same by CPU time (of all
processes), which other work on the machine disturbs less.
"""

import argparse
import hashlib
import io
import itertools
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import webdataset
from PIL import Image

from glassworks.artifacts.digests import canonical_json
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.data.reading.images import decode_image, stack_images
from glassworks.data.reading.loader import micro_batches
from glassworks.data.reading.order import Order
from glassworks.data.records import Record
from glassworks.data.shards import Plan, members_of, write_tar
from glassworks.data.sidecars import INDEX, read_head

SIZE, BATCH, WORKERS, WINDOW, PER_SHARD, EPOCHS = 256, 32, 2, 4, 160, 4
Batch = tuple[list[str], torch.Tensor]


def draw_jpeg(seed: int) -> bytes:
    """A smooth random field in colour with a little grain, as JPEG of quality 90: 15 to 30 kB, as photographs of 256
    px.
    """
    random = np.random.default_rng(seed)
    picture = np.zeros((SIZE, SIZE, 3), dtype=np.float32)
    for side, height in ((3, 90), (9, 50), (28, 28), (90, 12)):
        field = random.normal(0, height, (side, side, 3)).astype(np.float32)
        channels = [Image.fromarray(field[..., c]).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for c in range(3)]
        picture += np.stack([np.asarray(channel) for channel in channels], axis=-1)
    picture += random.normal(128, 5, (SIZE, SIZE, 1))
    file = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_records(count: int) -> tuple[list[Record], dict[str, bytes]]:
    records = [
        Record(f"{i:09d}", "train", f"{i:09d}", [f"a random field, number {i}"], {"seed": i}, {}) for i in range(count)
    ]
    return records, {record.key: draw_jpeg(i) for i, record in enumerate(records)}


def write_ours(folder: Path, records: list[Record], jpegs: dict[str, bytes]) -> None:
    listed = []
    for index, start in enumerate(range(0, len(records), PER_SHARD)):
        plan = Plan(f"train-{index:05d}", "train", records[start : start + PER_SHARD])
        for _ in write_tar(folder, plan, lambda record: {"jpg": jpegs[record.key]}):
            pass
        tar, sha256, size, count = read_head(folder / f"{plan.name}.json")
        listed.append({"tar": tar, "split": "train", "samples": count, "sha256": sha256, "size": size})
    (folder / INDEX).write_text(canonical_json({"shards": listed}))


def write_theirs(folder: Path, records: list[Record], jpegs: dict[str, bytes]) -> None:
    options = {"mtime": 0, "user": "glassworks", "group": "glassworks", "compress": False, "verbose": 0}
    with webdataset.ShardWriter(str(folder / "train-%05d.tar"), maxcount=PER_SHARD, **options) as writer:
        for record in records:
            writer.write({"__key__": record.key, **members_of(record, lambda record: {"jpg": jpegs[record.key]})})


def example(sample: Sample, seed: int) -> tuple[str, torch.Tensor]:
    return sample.key, decode_image(sample.members["jpg"], sample.where)


def collate(examples: list[tuple[str, torch.Tensor]]) -> Batch:
    keys, images = zip(*examples, strict=True)
    return list(keys), stack_images(list(images))


def our_batches(folder: Path, start: int, steps: int, as_float: bool) -> Any:
    dataset = ShardDataset(folder, "train")
    sizes = {
        "start_step": start,
        "steps": steps,
        "batch_size": BATCH,
        "micro_batches": 1,
        "workers": WORKERS,
        "seed": 0,
    }
    order = Order(dataset.shard_sizes, 0, WINDOW)
    for [(keys, images)] in micro_batches(dataset, order, transform=example, collate=collate, **sizes):
        yield keys, images.to(torch.float32).div_(255) if as_float else images


def decode_as_we_do(sample: dict[str, Any]) -> dict[str, Any]:
    return {"__key__": sample["__key__"], "jpg": decode_image(sample["jpg"], sample["__key__"])}


def their_batches(folder: Path, epochs: int, as_float: bool, our_decoder: bool = False) -> Any:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(WINDOW * PER_SHARD)
    decoded = samples.map(decode_as_we_do) if our_decoder else samples.decode("torchrgb" if as_float else "torchrgb8")
    batches = decoded.to_tuple("__key__", "jpg").repeat(nepochs=epochs).batched(BATCH, partial=True)
    for keys, images in webdataset.WebLoader(batches, batch_size=None, num_workers=WORKERS, prefetch_factor=4):
        if our_decoder and as_float:
            images = images.to(torch.float32).div_(255)
        yield keys, images


class Cost(NamedTuple):
    """Seconds of one side."""

    wall: float
    cpu: float
    """Of this process and the workers that ended with the work."""


def measure(work: Callable[[], Any]) -> Cost:
    start, own, children = time.perf_counter(), time.process_time(), sum(os.times()[2:4])
    work()
    return Cost(time.perf_counter() - start, time.process_time() - own + sum(os.times()[2:4]) - children)


def consume(batches: Any) -> int:
    return sum(len(keys) for keys, _ in batches)


def by_key(batches: Any) -> dict[str, tuple[Any, ...]]:
    """Type, shape and a digest of the pixels of every image."""
    return {
        key: (image.dtype, tuple(image.shape), hashlib.sha256(image.contiguous().numpy()).digest())
        for keys, images in batches
        for key, image in zip(keys, images, strict=True)
    }


def compare(
    title: str, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, samples: int, goal: str
) -> None:
    """Ratio of our samples/s to theirs, sides alternating; a first pair, which fills caches, is not counted."""
    pairs = []
    for number in range(repeats + 1):
        first = measure(ours) if number % 2 else None
        peer = measure(theirs)
        pairs.append((peer, first or measure(ours)))
    peer, own = (samples / statistics.median(pair[side].wall for pair in pairs[1:]) for side in (0, 1))
    report(title, pairs[1:], f"{own:,.0f} vs {peer:,.0f} samples/s", goal)


def report(title: str, pairs: list[tuple[Cost, Cost]], sides: str, goal: str) -> None:
    """Print the median of the ratios first / second by the clock, with their range, and by CPU time."""
    ratios = sorted(first.wall / second.wall for first, second in pairs)
    cpu = statistics.median(first.cpu / second.cpu for first, second in pairs)
    spread = f"({ratios[0]:.2f} … {ratios[-1]:.2f}, {len(pairs)} pairs; by CPU time {cpu:.2f} x)"
    print(f"{title:57} {statistics.median(ratios):5.2f} x  goal {goal:6}  {spread}  {sides}", flush=True)


def benchmark_writing(folder: Path, records: list[Record], jpegs: dict[str, bytes], repeats: int) -> Path:
    numbers = itertools.count()

    def into(write: Callable[..., None]) -> Path:
        """Write into a new folder, as both would in earnest."""
        place = folder / f"{write.__name__}-{next(numbers)}"
        place.mkdir()
        write(place, records, jpegs)
        return place

    compare(
        "(a) writing, digests and index included / ShardWriter",
        lambda: into(write_ours),
        lambda: into(write_theirs),
        4 * repeats,
        len(records),
        ">= 0.9",
    )
    ours, theirs = into(write_ours), into(write_theirs)
    tars = sorted(path.name for path in ours.glob("*.tar"))
    assert tars == sorted(path.name for path in theirs.glob("*.tar"))
    assert all((ours / tar).read_bytes() == (theirs / tar).read_bytes() for tar in tars)
    total = sum((ours / tar).stat().st_size for tar in tars)
    print(f"    parity: {len(tars)} tars, {total / 1e6:.1f} MB, the same bytes; each of ours has a sidecar")
    return ours


def benchmark_reading(folder: Path, samples: int, repeats: int) -> None:
    steps = samples // BATCH
    for as_float in (True, False):
        kind = "float32" if as_float else "uint8"
        own, peer = by_key(our_batches(folder, 0, steps, as_float)), by_key(their_batches(folder, 1, as_float))
        assert own == peer and len(own) == samples
        dtype, shape, _ = next(iter(own.values()))
        parity = f"    parity: {len(own)} keys, every pixel equal, {dtype} {list(shape)} on both sides"
        for ours_too, name in ((False, f'decode("torchrgb{"" if as_float else "8"}")'), (True, "with our decoder")):
            compare(
                f"(b) reading as {kind} / webdataset {name}",
                lambda as_float=as_float: consume(our_batches(folder, 0, EPOCHS * steps, as_float)),
                lambda as_float=as_float, ours_too=ours_too: consume(their_batches(folder, EPOCHS, as_float, ours_too)),
                repeats,
                EPOCHS * samples,
                "-" if ours_too else ">= 1.5",
            )
        print(parity, flush=True)


def benchmark_resuming(folder: Path, samples: int, repeats: int) -> None:
    steps = samples // BATCH

    def first_batch(step: int) -> Cost:
        batches = our_batches(folder, step, 5, as_float=False)
        cost = measure(lambda: next(batches))
        batches.close()
        return cost

    def first_picks(position: int) -> Cost:
        return measure(lambda: Order([10_000] * 1000, 0, WINDOW).picks(position, position + BATCH))

    for title, at, late in (
        ("(c) first batch at 90 % / at 0 % of an epoch", first_batch, steps * 9 // 10),
        ("    the order alone, 10,000,000 samples in 1,000 shards", first_picks, 9_000_000),
    ):
        at(0)
        pairs = [(at(late), at(0)) if i % 2 else (at(0), at(late))[::-1] for i in range(4 * repeats)]
        resumed, fresh = (1000 * statistics.median(pair[side].wall for pair in pairs) for side in (0, 1))
        report(title, pairs, f"{resumed:.1f} vs {fresh:.1f} ms", "<= 1.2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few samples and one pair of each: a smoke test")
    quick = parser.parse_args().quick
    samples, repeats = (320, 1) if quick else (1280, 5)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    records, jpegs = make_records(samples)
    sizes = sorted(len(jpeg) for jpeg in jpegs.values())
    print(
        f"{samples} JPEGs of {SIZE} px, {sizes[0] / 1e3:.0f} to {sizes[-1] / 1e3:.0f} kB; batches of {BATCH}; "
        f"{WORKERS} workers; torch {torch.__version__}, webdataset {webdataset.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        shards = benchmark_writing(Path(folder), records, jpegs, repeats)
        del jpegs
        benchmark_reading(shards, samples, repeats)
        benchmark_resuming(shards, samples, repeats)


if __name__ == "__main__":
    main()
