"""What a sample, a shard, a job and a checkpoint cost on this machine, and what many shards cost at the two entrances. docs/records/scaling.md plans with it.

    python benchmarks/scaling.py [--shards 10000] [--samples 20000] [--pixels 256]

It clones this repository into a temporary folder, as it was last committed, gives it two data sets of ready-made tars, one of `samples` photographs of `pixels` px in
tars of 1,000 and one of `shards` tars of a single pixel, and runs the stages by their verbs, each in a process of its own. Memory is the peak of the process.
Ten million photographs of one pixel need 30 GB of disk.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import yaml
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PER_TAR, PICTURES, PARAMETERS, ROWS = 1000, 100, 25_000_000, 500_000


class Cost(NamedTuple):
    """What a command cost."""

    wall: float
    cpu: float
    memory: float
    """Peak, in MB."""


def run(root: Path, *command: str) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen(
        [BIN / command[0], *command[1:]], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def draw_jpeg(size: int) -> bytes:
    """Coarse noise in colour: with 256 px about as many bytes as a photograph."""
    noise = [Image.effect_noise((size // 4 or 1, size // 4 or 1), 80).resize((size, size)) for _ in range(3)]
    file = io.BytesIO()
    Image.merge("RGB", noise).save(file, "JPEG", quality=90)
    return file.getvalue()


def measured(step: Callable[[], object]) -> Cost:
    """What a function costs in a process of its own."""
    start = time.perf_counter()
    process = os.fork()
    if not process:
        try:
            step()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit("a step failed")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def write_tars(folder: Path, tars: int, per_tar: int, pictures: list[bytes]) -> int:
    """Ready-made tars of captioned pictures; returns their bytes. The captions say the number of the tar."""
    folder.mkdir()
    first = io.BytesIO()
    with tarfile.open(fileobj=first, mode="w") as file:
        for index in range(per_tar):
            for extension, data in ("jpg", pictures[index % len(pictures)]), ("txt", b"picture of tar 00000"):
                member = tarfile.TarInfo(f"{index:05d}.{extension}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    for tar in range(tars):
        (folder / f"{tar:05d}.tar").write_bytes(first.getvalue().replace(b"tar 00000", b"tar %05d" % tar))
    return tars * len(first.getvalue())


def create_project(root: Path, record_jobs: int, shard_jobs: int) -> None:
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, root], check=True)
    tars = {"source": "webdataset", "tars": {"train": "*.tar"}, "shard_jobs": shard_jobs}
    datasets = {name: {**tars, "path": f"../{name}"} for name in ("photos", "pixels")}
    datasets["photos"]["record_jobs"] = record_jobs
    (root / "params.yaml").write_text(yaml.safe_dump({"datasets": datasets, "experiments": []}))
    (root / "dvc.lock").unlink()
    run(root, "glassworks", "dvc-yaml")


def measure_samples(root: Path, samples: int, size: int, record_jobs: int) -> None:
    print(f"{samples:,} photographs in tars of {PER_TAR:,}, {size / samples:,.0f} bytes a sample")
    _print_row("digests of the tars (fetch)", run(root, "glassworks", "fetch", "photos"), samples)
    jobs = [run(root, "glassworks", "records", "photos", "--job", str(job)) for job in range(record_jobs)]
    total = Cost(sum(job.wall for job in jobs), sum(job.cpu for job in jobs), max(job.memory for job in jobs))
    _print_row(f"pictures decoded by {record_jobs} jobs (records)", total, samples)
    for name, command in {
        "parts joined, keys checked (records)": ("glassworks", "records", "photos"),
        "tars indexed and linked (shards)": ("glassworks", "shards", "photos"),
        "digests for DVC (dvc commit)": ("dvc", "commit", "--force", "shards-photos"),
    }.items():
        _print_row(name, run(root, *command), samples)
    table = (root / "data/records/photos/records.parquet").stat().st_size / samples
    sidecars = sum(path.stat().st_size for path in (root / "data/shards/photos").glob("train-*.json")) / samples
    print(f"  {'bytes a sample':40} {table:8.1f} in the table of records, {sidecars:.1f} in sidecars")


def measure_shards(root: Path, shards: int, shard_jobs: int) -> None:
    print(f"{shards:,} shards of one pixel, {shard_jobs} jobs")
    for name, command in {
        "fetch": ("glassworks", "fetch", "pixels"),
        "records": ("glassworks", "records", "pixels"),
        "one job of shards": ("glassworks", "shards", "pixels", "--job", "0"),
        "the same again: what any job costs": ("glassworks", "shards", "pixels", "--job", "0"),
        "the other jobs, and publication": ("glassworks", "shards", "pixels"),
        "recording in DVC (dvc commit)": ("glassworks", "record"),
        "glassworks status": ("glassworks", "status"),
        "snakemake -n": ("snakemake", "-n", "data/shards/pixels/manifest.json"),
        "snakemake -n, again": ("snakemake", "-n", "data/shards/pixels/manifest.json"),
        "dvc status": ("dvc", "status", "shards-pixels"),
        "dvc status, again": ("dvc", "status", "shards-pixels"),
        "dvc repro": ("dvc", "repro", "shards-pixels"),
    }.items():
        cost = run(root, *command)
        print(f"  {name:40} {cost.cpu:8.2f} s of CPU  {cost.wall:6.2f} s  {cost.memory:6,.0f} MB")
    artefact = root / "data/shards/pixels"
    print(f"  {'bytes a shard':40} {(artefact / 'manifest.json').stat().st_size / shards:8.1f} in the manifest")


def measure_table(folder: Path, rows: int) -> None:
    """What `records` does last, and every job of `shards` first: it goes through the table for the rows of its shards."""

    def write() -> None:
        from glassworks.data.records import TABLE, Record, write_table

        def records() -> Iterator[Record]:
            for i in range(rows):
                media = {"tar": f"{i // PER_TAR:05d}.tar", "key": str(i)}
                yield Record(f"{i:09d}", "train", f"{i:09d}", ["a picture of something, in about ten words"], {}, media)

        write_table(folder / TABLE, records())

    def check() -> None:
        from glassworks.data import record_check
        from glassworks.data.records import TABLE

        record_check.check("pixels", folder / TABLE)

    def plan() -> None:
        from glassworks.stages.shards import plan_shards

        plan_shards(SimpleNamespace(params={"source": "webdataset"}, inputs={"records": folder}))  # type: ignore[arg-type]

    folder.mkdir()
    print(f"a table of {rows:,} records")
    for name, step in {"written": write, "checked": check, "planned as shards": plan}.items():
        _print_row(name, measured(step), rows)


def measure_reading(rows: int) -> None:
    """What a training does with the number of samples: their order, and the plan of packed rows."""
    sizes = [PER_TAR] * (rows // PER_TAR)

    def order() -> None:
        from glassworks.data.reading.order import Order

        made = Order(sizes, seed=0, window=100)
        for start in range(0, len(made), 256):
            made.picks(start, start + 256)

    def pack() -> None:
        import numpy as np

        from glassworks.data.reading.packing import plan

        plan(sizes, np.random.default_rng(0).integers(8, 200, (sum(sizes), 1)), {"tokens": 2048})

    print(f"{rows:,} samples to train on")
    for name, step in {"the order of an epoch": order, "packed rows of 2,048 tokens planned": pack}.items():
        _print_row(name, measured(step), rows)


def _print_row(name: str, cost: Cost, rows: int) -> None:
    print(f"  {name:40} {cost.cpu / rows * 1e6:8.1f} µs of CPU a sample  {cost.wall:6.1f} s  {cost.memory:6,.0f} MB")


def measure_checkpoint(folder: Path) -> None:
    """Weights and two moments in fp32, as AdamW has them."""
    import torch

    from glassworks.training.checkpoint import Checkpoints, Snapshot

    tensors = {f"layer{index}": torch.zeros(PARAMETERS // 25) for index in range(25)}
    files = {
        "model.safetensors": tensors,
        "optimizer.safetensors": {f"{n}/{m}": t.clone() for n, t in tensors.items() for m in "ab"},
    }
    with Checkpoints(folder, keep=2) as checkpoints:
        start = time.perf_counter()
        checkpoints.save(Snapshot(1, files, {}))
        checkpoints.wait()
        seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"a checkpoint of {PARAMETERS:,} parameters: {size / PARAMETERS:.1f} bytes a parameter, {seconds:.2f} s, {size / seconds / 1e6:,.0f} MB/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--pixels", type=int, default=256)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, record_jobs, shard_jobs = Path(scratch), max(2, asked.samples // 100_000), max(2, asked.shards // 100)
        size = write_tars(
            folder / "photos", asked.samples // PER_TAR, PER_TAR, [draw_jpeg(asked.pixels) for _ in range(PICTURES)]
        )
        write_tars(folder / "pixels", asked.shards, 1, [draw_jpeg(1)])
        create_project(folder / "project", record_jobs, shard_jobs)
        measure_samples(folder / "project", asked.samples, size, record_jobs)
        measure_shards(folder / "project", asked.shards, shard_jobs)
        measure_table(folder / "table", max(ROWS, asked.samples))
        measure_reading(max(ROWS, asked.samples))
        measure_checkpoint(folder / "checkpoints")  # imports torch: what is started later would inherit its peak


if __name__ == "__main__":
    main()
