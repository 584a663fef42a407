"""Jobs make parts of the records: the artefact is the same for any number of jobs, and after a kill."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassworks.artifacts.digests import sha256_file
from glassworks.config import registry
from glassworks.config.datasets import Dataset
from glassworks.data import records as tables
from glassworks.data.records import TABLE, Record, RecordTable, join_tables, write_table
from glassworks.data.scenes.questions import BLOCK
from glassworks.errors import DataError
from glassworks.sources.protocol import PartedSource, load_source
from glassworks.sources.scenes import source as scenes
from glassworks.sources.webdataset.source import _apart

from .test_records import RECORDS, TREE
from .test_scenes import built as built_scenes
from .test_webdataset import sample, write_tar

__all__ = ["built_scenes"]


@pytest.mark.parametrize("records", [RECORDS, [*RECORDS[:9], TREE, *RECORDS[9:]], RECORDS[:4], []])
@pytest.mark.parametrize("cuts", [[], [0], [4, 8], [1, 2, 3, 3, 9], [11], range(12)])
def test_joined_tables_have_the_bytes_of_one(tmp_path, monkeypatch, records, cuts):
    monkeypatch.setattr(tables, "GROUP", 4)
    write_table(tmp_path / TABLE, records)
    parts = []
    for number, (start, end) in enumerate(pairwise([0, *cuts, len(records)])):
        parts.append(tmp_path / f"{number}.parquet")
        write_table(parts[-1], records[start:end])
    join_tables(tmp_path / "joined.parquet", parts)
    assert (tmp_path / "joined.parquet").read_bytes() == (tmp_path / TABLE).read_bytes()


def test_a_table_of_several_pages_is_joined_to_the_same_bytes(tmp_path, monkeypatch):
    """A group has several pages, and its dictionary overflows."""
    monkeypatch.setattr(tables, "GROUP", 4096)
    records = [
        Record(f"{number:08}", "train", f"g{number // 3}", [f"{number * 7919 % 65537:x} " * 300], {"n": number})
        for number in range(9000)
    ]
    write_table(tmp_path / TABLE, records)
    parts = [tmp_path / f"{number}.parquet" for number in range(9)]
    for number, part in enumerate(parts):
        write_table(part, records[number * 1000 : (number + 1) * 1000])
    join_tables(tmp_path / "joined.parquet", parts)
    assert sha256_file(tmp_path / "joined.parquet") == sha256_file(tmp_path / TABLE)


@given(st.lists(st.text("a-_./", max_size=4).filter(lambda name: name.strip("/")), max_size=8, unique=True), st.data())
def test_tars_that_may_share_a_key_are_in_one_part(names, data):
    tars = [("train", f"{name}.tar") for name in names]
    runs = _apart(tars)
    assert [tar for run in runs for tar in run] == tars
    prefixes = [
        [f"{name.removesuffix('.tar')}-".translate(str.maketrans("./", "__")) for _, name in run] for run in runs
    ]
    for place, run in enumerate(prefixes):
        for other in prefixes[place + 1 :]:
            assert not any(a.startswith(b) or b.startswith(a) for a in run for b in other)


def test_tars_of_img2dataset_are_parts_of_their_own():
    tars = [("train", f"{number:05}.tar") for number in range(20)]
    assert _apart(tars) == [[tar] for tar in tars]


@pytest.fixture
def run(project):
    """The records of six tars by a number of jobs, which run last first."""
    folder = project.root / "downloads"
    for shard in range(4):
        write_tar(folder / f"{shard:05d}.tar", {f"{i:04d}": sample(10 * shard + i) for i in range(5)})
    write_tar(folder / "a.tar", {"b-c": sample(70), "d": sample(71, txt=None, json=None)})
    write_tar(
        folder / "a-b.tar", {"c": sample(80), "d": sample(3), "README": {"": b"text"}, "e": sample(81, jpg=b"no")}
    )
    splits = {"train": "{0000[012],a}.tar", "test": "{00003,a-b}.tar"}

    def run(record_jobs, max_dropped=2):
        dataset = {"source": "webdataset", "path": "downloads", "tars": splits, "max_dropped": max_dropped}
        project.configure({"datasets": {"mine": {**dataset, "record_jobs": record_jobs}}})
        project.run("fetch-mine")
        for job in reversed(range(project.table["records-mine"].jobs)):
            project.run_job("records-mine", job)
        return {path.name: path.read_bytes() for path in project.run("records-mine").iterdir()}

    return run


def test_any_number_of_jobs_makes_the_same_artefact(run, project):
    alone = run(1)
    assert set(alone) == {TABLE, "dropped.json", "remarks.json", "manifest.json", "recipe.json"}
    assert b"an image has the same bytes as one of another split" in alone["remarks.json"]
    keys = [record.key for record in RecordTable(project.root / "data/records/mine")]
    assert keys[15] == "a-b-c" and keys[-2:] == ["a-b-c_", "a-b-d"], "the key of a.tar is taken in a-b.tar"
    for jobs in (2, 3, 8):
        assert run(jobs) == alone


def test_the_stage_makes_what_no_job_has_made(run, project):
    alone = run(1)
    project.configure({"datasets": {"mine": {**_dataset(project), "record_jobs": 3}}})
    project.run_job("records-mine", 1)
    found = project.run("records-mine")
    assert {path.name: path.read_bytes() for path in found.iterdir()} == alone


def _dataset(project):
    return project.table.project.params.datasets["mine"].model_dump(mode="json", exclude_unset=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from glassworks.cli.running import run_stage
from glassworks.stages import records

made = []
def flush(path):
    made.append(path)
    if len(made) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
records.flush_to_disk = flush
run_stage("records-mine", job=0, root=Path(sys.argv[1]))
"""


def test_a_killed_job_goes_on_with_its_next_part(run, project):
    alone = run(1)
    project.configure({"datasets": {"mine": {**_dataset(project), "record_jobs": 2}}})
    source = str(Path(tables.__file__).parents[2])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(project.root)],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": source},
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    kept = {path: path.stat().st_ino for path in project.root.glob(".work/records-mine-*/parts/*.parquet")}
    assert len(kept) == 1
    for job in (0, 1):
        project.run_job("records-mine", job)
    assert {path: path.stat().st_ino for path in kept} == kept
    found = project.run("records-mine")
    assert {path.name: path.read_bytes() for path in found.iterdir()} == alone


@pytest.mark.parametrize("jobs", [1, 4])
def test_too_many_dropped_samples_are_the_same_line_with_jobs(run, jobs):
    with pytest.raises(DataError) as refused:
        run(jobs, max_dropped=1)
    assert str(refused.value).startswith("mine: 2 samples cannot be used and datasets.mine.max_dropped is 1: ")


def test_scenes_whose_questions_are_chosen_together_are_in_one_part():
    assert scenes.PART % BLOCK == 0


def test_composed_scenes_are_the_same_in_parts(built_scenes, tmp_path, monkeypatch):
    whole = list(scenes.records(built_scenes.context("records-scenes", tmp_path / "whole")))
    monkeypatch.setattr(scenes, "PART", 8)
    parts = scenes.parts(built_scenes.context("records-scenes", tmp_path / "parts"))
    assert len(parts) > 3
    made = [list(part()) for part in reversed(parts)]
    assert [record for part in reversed(made) for record in part] == whole


def test_a_source_has_parts_where_its_settings_have_jobs():
    names = registry.names("sources")
    with_jobs = {
        name for name in names if "record_jobs" in registry.settings_class("sources", name, Dataset).model_fields
    }
    assert {"scenes", "webdataset"} < with_jobs
    assert with_jobs == {name for name in names if isinstance(load_source(name), PartedSource)}
