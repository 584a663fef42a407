"""What a sample, a shard, a job and a checkpoint cost on this machine, and what many shards cost at the two entrances. docs/records/scaling.md plans with it.

    python benchmarks/scaling.py [--shards 10000] [--samples 20000]

It clones this repository into a temporary folder, as it was last committed, gives it two data sets of ready-made tars, one of `samples` photographs of 256 px in
tars of 1,000 and one of `shards` tars of a single pixel, and runs the stages by their verbs, each in a process of its own.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
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


def write_tars(folder: Path, tars: int, per_tar: int, pictures: list[bytes]) -> int:
    """Ready-made tars of captioned pictures; returns their bytes."""
    folder.mkdir()
    for tar in range(tars):
        with tarfile.open(folder / f"{tar:05d}.tar", "w") as file:
            for index in range(per_tar):
                for extension, data in ("jpg", pictures[index % len(pictures)]), ("txt", b"a picture"):
                    member = tarfile.TarInfo(f"{index:05d}.{extension}")
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))
    return sum(path.stat().st_size for path in folder.iterdir())


def create_project(root: Path, shard_jobs: int) -> None:
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, root], check=True)
    tars = {"source": "webdataset", "tars": {"train": "*.tar"}, "shard_jobs": shard_jobs}
    datasets = {name: {**tars, "path": f"../{name}"} for name in ("photos", "pixels")}
    (root / "params.yaml").write_text(yaml.safe_dump({"datasets": datasets, "experiments": []}))
    (root / "dvc.lock").unlink()
    run(root, "glassworks", "dvc-yaml")


def measure_samples(root: Path, samples: int, size: int) -> None:
    print(f"{samples:,} photographs in tars of {PER_TAR:,}, {size / samples:,.0f} bytes a sample")
    for name, command in {
        "digests of the tars (fetch)": ("glassworks", "fetch", "photos"),
        "every picture decoded (records)": ("glassworks", "records", "photos", "--threads", "2"),
        "tars indexed and linked (shards)": ("glassworks", "shards", "photos"),
        "digests for DVC (dvc commit)": ("dvc", "commit", "--force", "shards-photos"),
    }.items():
        cost = run(root, *command)
        rate = f"{cost.cpu / samples * 1e6:8.1f} µs of CPU a sample  {size / cost.cpu / 1e6:6,.0f} MB a second of CPU"
        print(f"  {name:40} {rate}  {cost.wall:6.1f} s  {cost.memory:6,.0f} MB")
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


def measure_table(folder: Path) -> None:
    """What `records` does last, and every job of `shards` first: it goes through the table for the rows of its shards."""
    from glassworks.data.records import TABLE, Record, check, write_table
    from glassworks.data.shards import plan_shards

    def records() -> Iterator[Record]:
        for i in range(ROWS):
            media = {"tar": f"{i // PER_TAR:05d}.tar", "key": str(i)}
            yield Record(f"{i:09d}", "train", f"{i:09d}", ["a picture of something, in about ten words"], {}, media)

    folder.mkdir()
    context = SimpleNamespace(params={"source": "webdataset"}, inputs={"records": folder})
    steps = {
        "written": lambda: write_table(folder / TABLE, records()),
        "checked": lambda: check("pixels", folder / TABLE),
        "planned as shards": lambda: plan_shards(context),
    }
    for name, step in steps.items():
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        kept = step()
        seconds, after = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        del kept
        print(
            f"a table of {ROWS:,} records {name}: {seconds / ROWS * 1e6:.1f} µs of CPU a record, memory's peak up by {(after - before) / 1024:,.0f} MB"
        )


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
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, shard_jobs = Path(scratch), max(2, asked.shards // 100)
        size = write_tars(
            folder / "photos", asked.samples // PER_TAR, PER_TAR, [draw_jpeg(256) for _ in range(PICTURES)]
        )
        write_tars(folder / "pixels", asked.shards, 1, [draw_jpeg(1)])
        create_project(folder / "project", shard_jobs)
        measure_samples(folder / "project", asked.samples, size)
        measure_shards(folder / "project", asked.shards, shard_jobs)
        measure_table(folder / "table")
        measure_checkpoint(folder / "checkpoints")  # imports torch: what is started later would inherit its peak


if __name__ == "__main__":
    main()
