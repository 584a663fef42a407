"""Ready-made tars drop in: taken as they are, with every sample used, dropped by name, or refused."""

import io
import json
import shutil
import tarfile

import pytest

from glassworks.artifacts.digests import sha256_file
from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.records import read_table
from glassworks.errors import DataError

from .small_shards import picture


def sample(number: int, **changed) -> dict[str, bytes | None]:
    """A sample as img2dataset writes it."""
    caption = f"caption {number}"
    content = {"caption": caption, "key": f"{number:09d}", "status": "success", "width": 24, "height": 16}
    members = {"jpg": picture(number, kind="JPEG"), "json": json.dumps(content).encode(), "txt": caption.encode()}
    return {extension: data for extension, data in {**members, **changed}.items() if data is not None}


def write_tar(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mtime = len(data), 1_700_000_000
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(project):
    """Three tars in img2dataset's layout, with the files it leaves beside them."""
    folder = project.root / "downloads"
    for shard in range(3):
        write_tar(folder / f"{shard:05d}.tar", {f"{shard:05d}{i:04d}": sample(10 * shard + i) for i in range(4)})
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


@pytest.fixture
def run(project):
    """Runs the three stages; returns the shards."""

    def run(tars, jobs=2, max_dropped=0, until="shards"):
        dataset = {"source": "webdataset", "path": "downloads", "tars": tars}
        project.configure({"datasets": {"mine": {**dataset, "shard_jobs": jobs, "max_dropped": max_dropped}}})
        project.run("fetch-mine")
        records = project.run("records-mine")
        return records if until == "records" else project.run("shards-mine")

    return run


SPLITS = {"train": "0000[01].tar", "test": "00002.tar"}


def test_tars_by_img2dataset_drop_in(folder, run):
    shards = run(SPLITS)
    assert sorted(path.name for path in shards.glob("*.tar")) == [
        "test-00000.tar",
        "train-00000.tar",
        "train-00001.tar",
    ]
    for name, original in (("train-00000", "00000"), ("train-00001", "00001"), ("test-00000", "00002")):
        assert sha256_file(shards / f"{name}.tar") == sha256_file(folder / f"{original}.tar")
        assert (shards / f"{name}.tar").stat().st_ino == (folder / f"{original}.tar").stat().st_ino
    dataset = ShardDataset(shards, "train", verify="first_touch")
    assert [s.key for s in dataset] == [f"{t:05d}-{t:05d}{i:04d}" for t in range(2) for i in range(4)]
    assert bytes(dataset[5].members["jpg"]) == picture(11, kind="JPEG")
    assert dataset[5].json()["caption"] == "caption 11"


def test_records_have_the_captions(folder, run):
    records = list(read_table(run(SPLITS, until="records")))
    assert [(r.split, r.texts) for r in records][-1] == ("test", ["caption 23"])
    assert records[0].group == records[0].key == "00000-000000000"
    assert records[0].media == {"tar": "00000.tar", "key": "000000000"}


def test_braces_of_webdataset_are_a_list_of_tars(folder, run):
    assert len(ShardDataset(run({"train": "{00000..00002}.tar"}), "train")) == 12
    with pytest.raises(DataError, match=r"tars\.train: 00003\.tar: no file in .* matches"):
        run({"train": "{00000..00003}.tar"})


def test_samples_that_cannot_be_used_are_dropped_by_name(folder, run):
    cut = picture(1, kind="JPEG")[:300]
    samples = {
        "a": sample(1),
        "b": sample(2, jpg=cut),
        "c": sample(3, json=b'{"caption": null}', txt=None),
        "d": sample(4, jpg=None),
        "e": sample(5, json=b"{"),
        "f": sample(6, json=None),
    }
    write_tar(folder / "00000.tar", samples)
    with pytest.raises(DataError) as info:
        run(SPLITS, max_dropped=3)
    said = str(info.value)
    assert said.startswith(
        "mine: 4 samples cannot be used and datasets.mine.max_dropped is 3: 00000.tar: sample 'b': the image does not decode"
    )
    assert (
        "00000.tar: sample 'c': no caption in its json or txt (members: jpg, json); 00000.tar: sample 'd': no image (json, txt"
        in said
    )
    shards = run(SPLITS, max_dropped=4)
    kept = [s.key for s in ShardDataset(shards, "train")][:3]
    assert kept == ["00000-a", "00000-f", "00001-000010000"]
    assert sha256_file(shards / "train-00000.tar") == sha256_file(folder / "00000.tar")


def test_a_tar_without_usable_samples_makes_no_shard(folder, run):
    write_tar(folder / "00000.tar", {"a": {"cls": b"1"}})
    shards = run(SPLITS, max_dropped=1)
    assert sha256_file(shards / "train-00000.tar") == sha256_file(folder / "00001.tar")


def test_keys_with_folders_are_made_safe_and_stay_apart(folder, run):
    write_tar(folder / "a.b/00000.tar", {"x/1": sample(1), "x_1": sample(2), "y.z/1": sample(3)})
    dataset = ShardDataset(run({"train": "a.b/*.tar"}), "train")
    assert [s.key for s in dataset] == ["a_b_00000-x_1", "a_b_00000-x_1_", "a_b_00000-y_z_1"]
    assert [s.json()["caption"] for s in dataset] == ["caption 1", "caption 2", "caption 3"]


@pytest.mark.parametrize(
    ("tars", "said"),
    [
        ({"train": "*.tgz"}, r"tars\.train: \*\.tgz: no file in .* matches"),
        ({"train": "../*.tar"}, "give a glob inside the folder"),
        ({"train": "/tmp/*.tar"}, "give a glob inside the folder"),
        ({"train": "*.tar", "test": "00002.tar"}, r"00002\.tar is in the split train already"),
        ({"train": "*.parquet"}, r"00000\.parquet: byte 0: the tar is cut inside a header"),
    ],
)
def test_globs_that_name_no_tars_are_refused(folder, run, tars, said):
    with pytest.raises(DataError, match=said):
        run(tars)


def test_a_truncated_tar_is_refused_at_once(folder, run):
    tar = folder / "00001.tar"
    with tarfile.open(tar) as opened:
        cut = opened.getmembers()[6].offset  # the third sample begins here
    tar.write_bytes(tar.read_bytes()[:cut])
    with pytest.raises(DataError, match=rf"00001\.tar: byte {cut:,}: the tar ends after the member '000010001\.txt'"):
        run(SPLITS)


def test_a_tar_that_changed_since_it_was_fetched_is_named(folder, run, project):
    run(SPLITS, until="records")
    other = project.root / "other.tar"
    write_tar(other, {f"{1:05d}{i:04d}": sample(50 + i) for i in range(4)})
    other.replace(folder / "00001.tar")
    for stage in ("shards-mine", "records-mine"):
        with pytest.raises(DataError, match=r"00001\.tar: changed since it was fetched"):
            project.run(stage)


def test_jobs_take_the_tars_in_blocks(folder, run, project):
    alone = run(SPLITS, jobs=1)
    expected = {path.name: sha256_file(path) for path in alone.iterdir()}
    shutil.rmtree(alone)
    for job in (1, 0):
        project.configure({"datasets": {"mine": {"source": "webdataset", "path": "downloads", "tars": SPLITS}}})
        project.run_job("shards-mine", job)
    again = project.run("shards-mine")
    assert {path.name: sha256_file(path) for path in again.iterdir()} == expected


@pytest.mark.parametrize(
    ("members", "captions"),
    [
        ({"json": b'{"captions": [" a ", "", 3, "b"]}'}, ["a", "b"]),
        ({"json": b'{"captions": [], "caption": "c"}', "txt": b"t"}, ["c"]),
        ({"json": b'{"caption": null}', "txt": "ü\n".encode()}, ["ü"]),
        ({"jpg": b""}, []),
    ],
)
def test_captions_are_found_where_they_are(members, captions):
    assert read_captions(members, "here") == captions


@pytest.mark.parametrize("members", [{"json": b"{"}, {"json": b"[]"}, {"json": b"\xff"}, {"txt": b"\xff"}])
def test_captions_that_cannot_be_read_are_named(members):
    with pytest.raises(DataError, match=r"^here: its member (json|txt) is no"):
        read_captions(members, "here")
