"""The source `coco_captions` reads the published layout of both releases."""

import json

import pytest

from glassworks.data.records import read_table
from glassworks.errors import DataError
from glassworks.sources.coco_captions import source as coco_captions

NAMES = {2017: "{0:012d}.jpg", 2014: "COCO_{1}_{0:012d}.jpg"}


def annotations(captions: dict[int, list[str]], part: str, year: int = 2017) -> dict:
    """An annotation file in its published form."""
    images = [
        {"license": 3, "file_name": NAMES[year].format(image_id, f"{part}{year}"), "height": 32, "width": 48,
         "id": image_id, "coco_url": f"http://images.cocodataset.org/{part}{year}/x.jpg"}
        for image_id in captions
    ]  # fmt: skip
    flat = [(image_id, caption) for image_id, texts in captions.items() for caption in texts]
    entries = [{"image_id": i, "id": 100 + n, "caption": caption} for n, (i, caption) in enumerate(flat)]
    return {"info": {"year": year}, "licenses": [], "images": images, "annotations": entries}


TRAIN = {9: ["A tray of food .", "Meat and bread ."], 25: ["A giraffe eating ."], 30: ["A flower vase .\n"]}
VAL = {139: ["A woman stands in the dining area ."], 285: ["A big burly grizzly bear ."]}


@pytest.fixture
def coco(project, write_image):
    """Writes the published layout and runs fetch and records; returns the records."""

    def run(train=None, val=None, year=2017, **settings):
        parts = {"train": train or annotations(TRAIN, "train", year), "val": val or annotations(VAL, "val", year)}
        for part, content in parts.items():
            path = project.root / f"coco/annotations/captions_{part}{year}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
        for part, captions in (("train", TRAIN), ("val", VAL)):
            for image_id in captions:
                name = NAMES[year].format(image_id, f"{part}{year}")
                write_image(project.root / f"coco/{part}{year}/{name}", seed=image_id)
        project.configure({"datasets": {"coco": {"source": "coco_captions", "path": "coco", "year": year, **settings}}})
        project.run("fetch-coco")
        return list(read_table(project.run("records-coco")))

    return run


def dropped(project) -> list[tuple[str, str]]:
    entries = json.loads((project.root / "data/records/coco/dropped.json").read_text())
    return [(entry["where"], entry["reason"]) for entry in entries]


def test_published_val_images_are_our_test_split(coco):
    records = coco(splits={"validation": 0.0, "test": 0.0})
    assert [(record.key, record.split, record.texts) for record in records] == [
        ("000000000009", "train", ["A tray of food .", "Meat and bread ."]),
        ("000000000025", "train", ["A giraffe eating ."]),
        ("000000000030", "train", ["A flower vase ."]),
        ("000000000139", "test", ["A woman stands in the dining area ."]),
        ("000000000285", "test", ["A big burly grizzly bear ."]),
    ]
    assert [(record.group, record.labels) for record in records[:1]] == [("9", {"image_id": 9})]


def test_validation_is_held_out_of_the_training_images(coco):
    records = coco(splits={"validation": 0.5, "test": 0.0})
    assert {record.split for record in records[:3]} == {"train", "validation"}
    assert {record.split for record in records[3:]} == {"test"}


def test_release_of_2014_has_its_own_file_names(coco):
    assert next(record.key for record in coco(year=2014)) == "COCO_train2014_000000000009"


def test_captions_that_cannot_be_used_are_dropped_and_counted_or_refused(coco, project):
    train = annotations({**TRAIN, 25: ["A giraffe eating .", " "]}, "train")
    train["annotations"].append({"image_id": 404, "id": 1, "caption": "Of no image ."})
    with pytest.raises(DataError, match="2 samples cannot be used"):
        coco(train)
    assert len(coco(train, max_dropped=2)) == 5
    assert dropped(project) == [
        ("annotations/captions_train2017.json annotation 4 (train2017/000000000025.jpg)", "no caption"),
        ("annotations/captions_train2017.json annotation 6", "no image of this file has its image_id"),
    ]


def test_image_that_nobody_described_is_dropped(coco, project):
    coco(annotations({**TRAIN, 31: []}, "train"), max_dropped=1)
    assert dropped(project) == [
        ("annotations/captions_train2017.json image 4 (000000000031.jpg)", "no annotation has a caption for it")
    ]


def test_image_that_is_missing_is_dropped(coco, project):
    coco(val=annotations({**VAL, 286: ["A bear ."]}, "val"), max_dropped=1)
    assert dropped(project) == [
        (
            "annotations/captions_val2017.json image 3 (000000000286.jpg) (val2017/000000000286.jpg)",
            "there is no file: val2017/000000000286.jpg",
        )
    ]


@pytest.mark.parametrize("part", ["train", "val"])
def test_missing_annotations_say_what_was_expected(coco, project, part):
    coco()
    (project.root / f"coco/annotations/captions_{part}2017.json").unlink()
    project.run("fetch-coco")
    with pytest.raises(
        DataError, match=rf"captions_{part}2017.json: no such file; expected COCO's annotations/captions_{part}2017"
    ):
        project.run("records-coco")


def test_other_json_is_refused_with_what_was_found(coco):
    with pytest.raises(
        DataError, match=r"captions_train2017.json: no list 'images' \(found: info, annotations\); expected"
    ):
        coco({"info": {}, "annotations": []})
    with pytest.raises(DataError, match=r"captions_train2017.json image 1: no id or file_name"):
        coco({"images": [{"name": "x.jpg"}], "annotations": []})


def test_cut_json_is_refused(coco, project):
    coco()
    path = project.root / "coco/annotations/captions_train2017.json"
    path.write_text(path.read_text()[:-10])
    project.run("fetch-coco")
    with pytest.raises(DataError, match=r"captions_train2017.json: not JSON \("):
        project.run("records-coco")


def test_file_name_that_points_outside_is_refused(coco):
    train = annotations(TRAIN, "train")
    train["images"][0]["file_name"] = "../../../secret.jpg"
    with pytest.raises(DataError, match=r"image 1 .* points outside the folder"):
        coco(train)
    assert "000000000009" not in [record.key for record in coco(train, max_dropped=1)]


def test_media_are_the_published_bytes(coco, project):
    records = coco()
    read = coco_captions.media(project.context("shards-coco", project.root / "scratch"))
    assert read(records[0]) == {"jpg": (project.root / "coco/train2017/000000000009.jpg").read_bytes()}
