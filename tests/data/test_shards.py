"""Shards are a function of the records and their media alone: the same bytes for any number of jobs, or no bytes."""

import gc
import io
import json
import os
import shutil
import tarfile
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from webdataset import ShardWriter, WebDataset

from glassworks.artifacts.digests import sha256_file
from glassworks.data import shards as writing
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.records import Record, write_table
from glassworks.data.sidecars import INDEX, read_sidecar, scan_tar
from glassworks.errors import DataError
from glassworks.stages import shards as stage

from .small_shards import media, record

RECORDS = [record(i, "test" if i % 5 == 4 else "train") for i in range(24)]


@pytest.fixture
def asked(monkeypatch):
    """A source that draws pictures; counts how often the media of each record are asked for."""
    asked = Counter()

    def count(context):
        return lambda record: asked.update([record.key]) or media(record)

    monkeypatch.setattr(stage, "load_source", lambda name: SimpleNamespace(media=count))
    return asked


@pytest.fixture
def make(tmp_path, asked):
    """Contexts of the stage over the same records; `jobs` is how many it is divided into."""
    (tmp_path / "records").mkdir()

    def make(name: str, jobs: int = 2, records=RECORDS, samples_per_shard: int = 4):
        write_table(tmp_path / "records/records.parquet", records)
        work = tmp_path / name
        (work / "output").mkdir(parents=True)
        return SimpleNamespace(
            params={"source": "drawn", "samples_per_shard": samples_per_shard},
            inputs={"records": tmp_path / "records"},
            stage=SimpleNamespace(name="shards-x", jobs=jobs),
            work=work,
            output=work / "output",
        )

    return make


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_shards_are_the_same_bytes_for_any_number_of_jobs(make, asked):
    alone = make("alone")
    counts = stage.run(alone)
    tars = [f"train-{i:05d}.tar" for i in range(5)] + ["test-00000.tar"]
    size = sum((alone.output / tar).stat().st_size for tar in tars)
    assert counts == {"samples": {"train": 20, "validation": 0, "test": 4}, "shards": 6, "bytes": size}
    assert set(files(alone.output)) == {INDEX, *tars, *(tar.replace("tar", "json") for tar in tars)}
    for jobs in (1, 2, 3, 9):
        context = make(f"with {jobs}", jobs)
        built = [stage.run_job(context, job) for job in reversed(range(jobs))]
        assert sum(done["samples"] for done in built) == 24
        asked.clear()
        stage.run(context)
        assert not asked
        assert files(context.output) == files(alone.output)


def test_shards_are_these_bytes_for_ever(tmp_path):
    """A golden digest of samples without pictures: no machine, clock, umask or library version may change it."""
    umask = os.umask(0o077)
    try:
        plan = writing.Plan("train-00000", "train", RECORDS[:2])
        list(writing.write_tar(tmp_path, plan, lambda record: {"txt": record.key.encode(), "bin": bytes(600)}))
    finally:
        os.umask(umask)
    golden = "72738a32053f42f492f80b7c280a67ca1b6853d01825c251a566f513a7121903"
    assert sha256_file(tmp_path / "train-00000.tar") == golden


def test_a_sample_lies_as_the_sidecar_says_with_json_last(make):
    context = make("x")
    stage.run(context)
    for path in sorted(context.output.glob("*.tar")):
        assert scan_tar(path) == read_sidecar(path.with_suffix(".json"))
    with tarfile.open(context.output / "train-00000.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == [f"k{i:03d}.{e}" for i in range(4) for e in ("png", "json")]
        assert {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname) for m in members} == {
            (0, 0o444, 0, 0, "glassworks", "glassworks")
        }
        text = tar.extractfile("k001.json").read()
    assert text == b'{"captions":["caption 1"],"group":"g1","key":"k001","labels":{"number":1}}'


def test_the_index_lists_every_shard(make):
    context = make("x")
    stage.run(context)
    listed = json.loads((context.output / INDEX).read_text())["shards"]
    assert [(s["tar"], s["split"], s["samples"]) for s in listed] == [
        *((f"train-{i:05d}.tar", "train", 4) for i in range(5)),
        ("test-00000.tar", "test", 4),
    ]
    for shard in listed:
        tar = context.output / shard["tar"]
        assert (shard["sha256"], shard["size"]) == (sha256_file(tar), tar.stat().st_size)
    assert [sample.key for sample in ShardDataset(context.output, "test")] == [f"k{i:03d}" for i in (4, 9, 14, 19)]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the garbage collector
def test_webdataset_reads_the_shards(make):
    context = make("x")
    stage.run(context)
    urls = [str(path) for path in sorted(context.output.glob("train-*.tar"))]
    read = list(WebDataset(urls, shardshuffle=False, empty_check=False))
    expected = [r for r in RECORDS if r.split == "train"]
    assert [(s["__key__"], s["png"]) for s in read] == [(r.key, media(r)["png"]) for r in expected]
    assert [json.loads(s["json"])["captions"] for s in read] == [r.texts for r in expected]
    gc.collect()


def test_the_tar_is_the_one_webdataset_writes(make, tmp_path):
    """Byte for byte, given the same members (webdataset sorts them), owner and time."""
    records = RECORDS[:3]
    pictures = {r.key: media(r)["png"] for r in records}
    list(writing.write_tar(tmp_path, writing.Plan("ours", "train", records), lambda r: {"jpg": pictures[r.key]}))
    options = {"user": "glassworks", "group": "glassworks", "mtime": 0, "verbose": 0, "compress": False}
    with ShardWriter(str(tmp_path / "peer-%05d.tar"), **options) as writer:
        for r in records:
            text = writing.members_of(r, lambda r: {})["json"]
            writer.write({"__key__": r.key, "jpg": pictures[r.key], "json": text})
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "peer-00000.tar").read_bytes()


def test_what_an_interrupted_job_finished_is_kept(make, asked, monkeypatch):
    context = make("x", jobs=1)
    written = writing.write_sample

    def interrupted(writer, key, members):
        if key == RECORDS[-3].key:
            raise KeyboardInterrupt
        return written(writer, key, members)

    monkeypatch.setattr(writing, "write_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage.run_job(context, 0)
    folder = context.work / "shards"
    assert sorted(path.name for path in folder.glob("*.tar")) == [f"train-{i:05d}.tar" for i in range(4)]
    assert not list(folder.glob(".*"))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    time.sleep(0.02)
    (folder / "train-00002.tar").write_bytes(b"")  # as a lost power supply may leave it
    monkeypatch.setattr(writing, "write_sample", written)
    asked.clear()
    stage.run_job(context, 0)
    assert sorted(asked) == sorted(r.key for p in stage.plan_shards(context) for r in p.records if p.name in
                                   {"train-00002", "train-00004", "test-00000"})  # fmt: skip
    for name, stamp in before.items():
        assert (folder / name).stat().st_mtime_ns == stamp or "00002" in name
    whole = make("whole")
    stage.run(context)
    stage.run(whole)
    assert files(context.output) == files(whole.output)


def test_a_kill_while_publishing_loses_no_shard(make, asked):
    context = make("x")
    stage.run(context)
    shutil.rmtree(context.output)
    context.output.mkdir()
    asked.clear()
    stage.run(context)
    assert not asked
    assert len(files(context.output)) == 13


def test_a_split_without_samples_has_no_shard(make):
    context = make("x", records=RECORDS[:3], samples_per_shard=2, jobs=5)
    for job in range(5):
        stage.run_job(context, job)
    assert stage.run(context)["samples"] == {"train": 3, "validation": 0, "test": 0}
    assert sorted(path.name for path in context.output.glob("*.tar")) == ["train-00000.tar", "train-00001.tar"]


@pytest.mark.parametrize("key", ["ünïcode", "n" * 300])
def test_any_key_can_name_a_sample(tmp_path, key):
    plan = writing.Plan("x", "train", [Record(key, "train", key, ["c"])])
    list(writing.write_tar(tmp_path, plan, lambda record: {"txt": b"one"}))
    assert scan_tar(tmp_path / "x.tar") == read_sidecar(tmp_path / "x.json")
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == [f"{key}.txt", f"{key}.json"]


def test_copies_where_no_link_is_possible(tmp_path, monkeypatch):
    def refused(*arguments):
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "a").write_bytes(b"one")
    writing.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").stat().st_ino == (tmp_path / "a").stat().st_ino
    monkeypatch.setattr(os, "link", refused)
    writing.link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"one"
    assert (tmp_path / "c").stat().st_ino != (tmp_path / "a").stat().st_ino


def test_the_stage_runs_over_a_folder_of_images(project, write_image):
    pictures = project.root / "pictures"
    for i in range(9):
        write_image(pictures / f"{i}.png", seed=i)
    rows = "".join(f"{i}.png,a picture,{'test' if i > 6 else 'train'}\n" for i in range(9))
    (pictures / "captions.csv").write_text("file,caption,split\n" + rows)
    dataset = {"source": "folder", "path": "pictures", "samples_per_shard": 2, "shard_jobs": 3}
    project.configure({"datasets": {"mine": dataset}})
    project.run("fetch-mine")
    project.run("records-mine")
    for job in (2, 0, 1):
        project.run_job("shards-mine", job)
    shards = project.run("shards-mine")
    assert len(ShardDataset(shards, "train")) == 7
    sample = ShardDataset(shards, "test", verify="first_touch")[1]
    assert bytes(sample.members["png"]) == (pictures / "8.png").read_bytes()
    write_image(pictures / "3.png", seed=99)
    shutil.rmtree(project.root / ".work", ignore_errors=True)
    with pytest.raises(DataError, match=r"3\.png: changed since it was fetched"):
        project.run("shards-mine")


def test_offsets_are_known_without_reading_back():
    """The writer of webdataset counts bytes as tarfile does, whatever the length of name or payload."""
    for size in (0, 1, 511, 512, 513, 70_000):
        file = io.BytesIO()
        with writing.open_tar(file) as tar:
            entry = writing.write_sample(tar, "k" * 99, {"bin": bytes([7]) * size, "json": b"{}"})
        for extension, data in (("bin", bytes([7]) * size), ("json", b"{}")):
            at, length = entry.members[extension]
            assert file.getvalue()[at : at + length] == data
