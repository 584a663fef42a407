"""The source `flickr30k` reads Kaggle's published layout, its one broken row included, and Karpathy's split."""

import json

import pytest

from glassworks.data.records import read_table
from glassworks.errors import DataError
from glassworks.sources.flickr30k import source as flickr30k

PUBLISHED = """\
image_name| comment_number| comment
1000092795.jpg| 0| Two young guys with shaggy hair look at their hands while hanging out in the yard .
1000092795.jpg| 1| Two young , White males are outside near many bushes .
1000092795.jpg| 2| Two men in green shirts are standing in a yard .
1000092795.jpg| 3| A man in a blue shirt standing in a garden .
1000092795.jpg| 4| Two friends enjoy time spent together .
2199200615.jpg| 0| A dog runs across the grass , with its mouth open .
2199200615.jpg| 1| A brown dog with a "big" collar runs .
2199200615.jpg| 2| A dog with its tongue out\x85 running .
2199200615.jpg| 3| A dog runs in a field .
2199200615.jpg| 4   A dog runs across the grass .
998845445.jpg| 0| A man in shorts and a Hawaiian shirt leans over the rail of a pilot boat .
998845445.jpg| 1| A young man hanging over the side of a boat , which is in a like with fog .
"""
ROW, LAYOUT = "results.csv line 14", "expected image_name| comment_number| comment"
IMAGES = ("1000092795.jpg", "2199200615.jpg", "998845445.jpg")


@pytest.fixture
def flickr(project, write_image):
    """Writes the published layout and runs fetch and records; returns the records."""

    def run(table: str = PUBLISHED, karpathy=None, images=IMAGES, **settings):
        for seed, name in enumerate(images):
            write_image(project.root / "flickr/flickr30k_images" / name, seed=seed)
        (project.root / "flickr").mkdir(exist_ok=True)
        (project.root / "flickr/results.csv").write_bytes(table.encode())
        if karpathy is not None:
            (project.root / "flickr/dataset_flickr30k.json").write_text(json.dumps(karpathy))
            settings["karpathy"] = "dataset_flickr30k.json"
        project.configure({"datasets": {"flickr": {"source": "flickr30k", "path": "flickr", **settings}}})
        project.run("fetch-flickr")
        return list(read_table(project.run("records-flickr")))

    return run


def dropped(project) -> list[dict[str, str]]:
    return json.loads((project.root / "data/records/flickr/dropped.json").read_text())


def test_published_table_is_read_with_nothing_dropped(flickr, project):
    records = flickr()
    assert [(record.key, len(record.texts)) for record in records] == [
        ("1000092795", 5),
        ("2199200615", 5),
        ("998845445", 2),
    ]
    assert records[0].texts[4] == "Two friends enjoy time spent together ."
    assert dropped(project) == []


def test_defect_004_6_the_published_row_without_its_delimiter_is_repaired(flickr):
    """The document trains on an empty caption there."""
    assert flickr()[1].texts[4] == "A dog runs across the grass ."


def test_quotation_marks_and_odd_separators_stay_in_the_caption(flickr):
    captions = flickr()[1].texts
    assert captions[1] == 'A brown dog with a "big" collar runs .'
    assert captions[2] == "A dog with its tongue out\x85 running ."


@pytest.mark.parametrize(
    ("row", "where", "reason"),
    [
        ("998845445.jpg| 2   Broken alike .", ROW, f"{LAYOUT}: found '998845445.jpg| 2   Broken alike .'"),
        ("998845445.jpg| two| A number in words .", ROW, LAYOUT),
        ("998845445.jpg| 2| A caption | with a delimiter .", ROW, LAYOUT),
        ("998845445.jpg| 2|", "results.csv line 14 (flickr30k_images/998845445.jpg)", "no caption"),
        ("1.jpg| 0| No such image .", "results.csv line 14 (flickr30k_images/1.jpg)", "there is no file: flickr30k_images/1.jpg"),
    ],
)  # fmt: skip
def test_any_other_bad_row_is_dropped_and_counted_or_refused(flickr, project, row, where, reason):
    with pytest.raises(DataError, match=r"1 samples cannot be used and datasets\.flickr.max_dropped is 0"):
        flickr(PUBLISHED + row + "\n")
    assert len(flickr(PUBLISHED + row + "\n", max_dropped=1)) == 3
    (entry,) = dropped(project)
    assert entry["where"] == where
    assert entry["reason"].startswith(reason)


def test_image_that_was_cut_is_dropped_with_all_its_captions(flickr, project):
    flickr()
    image = project.root / "flickr/flickr30k_images/1000092795.jpg"
    image.write_bytes(image.read_bytes()[:600])
    records = flickr(images=(), max_dropped=1)
    assert [record.key for record in records] == ["2199200615", "998845445"]
    assert dropped(project)[0]["where"] == "results.csv line 2 (flickr30k_images/1000092795.jpg)"


def test_defect_004_1_all_captions_of_an_image_are_in_one_split(flickr):
    """The document splits the rows of the table: with five captions each, nearly every held-out image is a training image too."""
    names = [f"{number}.jpg" for number in range(30)]
    rows = "".join(f"{name}| {n}| A caption .\n" for name in names for n in range(5))
    records = flickr(
        f"image_name| comment_number| comment\n{rows}", images=names, splits={"validation": 0.3, "test": 0.3}
    )
    assert {record.split for record in records} == {"train", "validation", "test"}
    assert all(len(record.texts) == 5 and record.group == record.media["file"] for record in records)


def karpathy(**splits):
    """Karpathy's JSON, in its published form."""
    images = [
        {"sentids": [0], "imgid": number, "filename": f"{name.removeprefix('_')}.jpg", "split": split,
         "sentences": [{"tokens": ["a"], "raw": "A .", "imgid": number, "sentid": 0}]}
        for number, (name, split) in enumerate(splits.items())
    ]  # fmt: skip
    return {"dataset": "flickr30k", "images": images}


def test_karpathys_split_is_followed(flickr):
    records = flickr(karpathy=karpathy(_998845445="test", _1000092795="train", _2199200615="val"))
    assert {record.key: record.split for record in records} == {
        "998845445": "test",
        "1000092795": "train",
        "2199200615": "validation",
    }


def test_images_outside_karpathys_split_are_left_out_and_said_to_be(flickr, capsys):
    assert [record.key for record in flickr(karpathy=karpathy(_1000092795="train"))] == ["1000092795"]
    assert "2 × an image of results.csv is not in dataset_flickr30k.json and is left out" in capsys.readouterr().err


def test_image_of_karpathys_split_without_captions_is_dropped(flickr, project):
    flickr(karpathy=karpathy(_1000092795="train", _5="test"), max_dropped=1)
    assert dropped(project) == [
        {"where": "dataset_flickr30k.json image 2 (5.jpg)", "reason": "results.csv has no caption for it"}
    ]


@pytest.mark.parametrize(
    "content",
    [{"pictures": []}, {"images": [{"file": "1.jpg", "split": "train"}]}, []],
)
def test_other_json_in_place_of_karpathys_is_refused(flickr, content):
    with pytest.raises(DataError, match=r"dataset_flickr30k.json: not the published layout .*; expected Karpathy's"):
        flickr(karpathy=content)


def test_image_of_karpathys_split_with_an_unknown_split_is_dropped(flickr, project):
    flickr(karpathy=karpathy(_1000092795="train", _998845445="dev"), max_dropped=1)
    assert dropped(project)[0]["reason"] == "unknown split: 'dev'; allowed: restval, test, train, val"


def test_other_header_is_refused_with_the_columns_found(flickr):
    with pytest.raises(
        DataError,
        match=r"results.csv: columns found: image,caption; expected Kaggle's results.csv with the header image_name\| ",
    ):
        flickr("image,caption\n1.jpg,A dog .\n")


def test_missing_table_is_refused(flickr, project):
    flickr()
    (project.root / "flickr/results.csv").unlink()
    project.run("fetch-flickr")
    with pytest.raises(DataError, match=r"results.csv: no such file; expected Kaggle's"):
        project.run("records-flickr")


def test_image_name_that_points_outside_is_refused(flickr):
    with pytest.raises(DataError, match="there is no file"):
        flickr(PUBLISHED + "../secret.jpg| 0| A secret .\n")
    with pytest.raises(DataError, match="points outside the folder"):
        flickr(PUBLISHED + "../../secret.jpg| 0| A secret .\n")
    assert len(flickr(PUBLISHED + "../../secret.jpg| 0| A secret .\n", max_dropped=1)) == 3


def test_media_are_the_published_bytes(flickr, project):
    records = flickr()
    read = flickr30k.media(project.context("shards-flickr", project.root / "scratch"))
    published = project.root / "flickr/flickr30k_images/1000092795.jpg"
    assert read(records[0]) == {"jpg": published.read_bytes()}
    published.write_bytes(published.read_bytes() + b"!")
    with pytest.raises(DataError, match="changed since it was fetched"):
        read(records[0])
