"""A sample is read as it was written, or the shard and the sample are named."""

import json
import multiprocessing
import pickle
import shutil

import pytest

from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.sidecars import INDEX, read_sidecar, scan_tar
from glassworks.errors import ArtifactError, DataError

from .small_shards import make_shards, media, record


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards") / "x", train=20, test=3)


@pytest.fixture
def shards(written, tmp_path):
    return shutil.copytree(written, tmp_path / "shards")


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_samples_are_read_as_they_were_written(shards):
    dataset = ShardDataset(shards, "train")
    assert (len(dataset), dataset.shard_sizes) == (20, [7, 7, 6])
    for index in (0, 6, 7, 19, 3):
        sample, expected = dataset[index], record(index)
        assert (sample.key, bytes(sample.members["png"])) == (expected.key, media(expected)["png"])
        assert sample.json() == {
            "key": expected.key, "group": expected.group, "captions": expected.texts, "labels": expected.labels,
        }  # fmt: skip
        assert sample.where == f"train-{index // 7:05d}.tar: sample 'k{index:03d}'"
    assert [ShardDataset(shards, "test")[i].key for i in range(3)] == ["k020", "k021", "k022"]
    assert len(ShardDataset(shards, "validation")) == 0


@pytest.mark.parametrize("index", [-1, 20])
def test_there_is_no_sample_outside(shards, index):
    with pytest.raises(IndexError):
        ShardDataset(shards, "train")[index]


@pytest.mark.parametrize("member", ["png", "json"])
def test_one_flipped_byte_is_named(shards, member):
    at, size = read_sidecar(shards / "train-00001.json").samples[2].members[member]
    flip(shards / "train-00001.tar", at + size // 2)
    dataset = ShardDataset(shards, "train", verify="first_touch")
    assert dataset[6].key == "k006"
    with pytest.raises(ArtifactError, match=r"train-00001\.tar: sample 'k009': altered"):
        dataset[7]


def test_a_flipped_byte_outside_the_samples_is_found(shards):
    flip(shards / "train-00001.tar", 300)
    with pytest.raises(ArtifactError, match=r"train-00001\.tar: a header"):
        ShardDataset(shards, "train", verify="first_touch")[7]


@pytest.mark.parametrize("missing", [1, 512, 10_000])
def test_a_truncated_shard_is_always_named(shards, missing):
    tar = shards / "train-00002.tar"
    tar.write_bytes(tar.read_bytes()[:-missing])
    with pytest.raises(ArtifactError, match=r"train-00002\.tar: sample 'k015' cannot be read: the shard was truncated"):
        ShardDataset(shards, "train")[15]


def test_a_shard_that_is_missing_empty_or_longer_is_named(shards):
    dataset = ShardDataset(shards, "train")
    with (shards / "train-00000.tar").open("ab") as file:
        file.write(bytes(512))
    (shards / "train-00001.tar").unlink()
    (shards / "train-00002.tar").write_bytes(b"")
    for index, said in ((0, "has grown"), (7, "No such file"), (14, "was truncated")):
        with pytest.raises(ArtifactError, match=rf"train-0000{index // 7}\.tar: sample 'k0{index:02d}'.*{said}"):
            dataset[index]


def test_a_sidecar_of_another_shard_is_refused(shards):
    shutil.copy(shards / "train-00000.json", shards / "train-00001.json")
    with pytest.raises(ArtifactError, match=r"train-00001\.json: belongs to other shards"):
        ShardDataset(shards, "train")[7]


def test_a_sidecar_that_points_outside_its_tar_is_refused(shards):
    path = shards / "train-00000.json"
    value = json.loads(path.read_text())
    value["samples"][0]["members"]["png"][1] = value["size"]
    path.write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match="points outside its tar"):
        ShardDataset(shards, "train")[1]


@pytest.mark.parametrize("text", ["", "[]", '{"shards": [{}]}', '{"shards": [1]}'])
def test_a_broken_list_of_shards_is_refused(shards, text):
    (shards / INDEX).write_text(text)
    with pytest.raises(ArtifactError, match=r"shards\.json"):
        ShardDataset(shards, "train")


def test_a_member_that_is_no_json_is_named(shards):
    tar = shards / "train-00000.tar"
    at, _ = read_sidecar(shards / "train-00000.json").samples[1].members["json"]
    flip(tar, at)
    with pytest.raises(DataError, match=r"train-00000\.tar: sample 'k001': its member json is not JSON"):
        ShardDataset(shards, "train")[1].json()


def test_few_shards_stay_open_and_views_outlive_them(shards):
    dataset = ShardDataset(shards, "train", max_open=1)
    held = [dataset[index] for index in (0, 7, 14, 1)]
    assert len(dataset._open) == 1
    assert [bytes(sample.members["png"]) for sample in held] == [media(record(i))["png"] for i in (0, 7, 14, 1)]


def test_a_digest_is_computed_once(shards, monkeypatch):
    from glassworks.data.reading import dataset as module

    asked = []
    monkeypatch.setattr(module, "sha256_file", lambda path: asked.append(path.name) or scan_tar(path).sha256)
    dataset = ShardDataset(shards, "train", verify="first_touch", max_open=1)
    for index in (0, 1, 7, 0, 7):
        dataset[index]
    assert asked == ["train-00000.tar", "train-00001.tar"]


def test_a_data_set_travels_to_other_processes_while_open(shards):
    dataset = ShardDataset(shards, "train")
    dataset[0]
    assert pickle.loads(pickle.dumps(dataset))[8].key == "k008"  # noqa: S301
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_Key(dataset), [0, 19]) == ["k000", "k019"]


class _Key:
    def __init__(self, dataset):
        self.dataset = dataset

    def __call__(self, index):
        return self.dataset[index].key
