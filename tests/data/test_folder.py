"""The source `folder`: images with a CSV or JSONL. Whatever cannot be used is named, dropped and bounded."""

import json

import pytest

from glassworks.data.records import read_table
from glassworks.errors import DataError
from glassworks.sources.folder import source as folder


@pytest.fixture
def photos(project, write_image):
    """Writes images and a table, and runs fetch and records; returns the records."""

    def run(table: str, images=("a.png", "b.png", "c.png"), max_dropped=0, threads=1, **settings):
        for seed, name in enumerate(images):
            if not (project.root / "photos" / name).exists():
                write_image(project.root / "photos" / name, seed=seed)
        name = settings.get("captions", "captions.csv")
        (project.root / "photos" / name).write_bytes(table.encode())
        dataset = {"source": "folder", "path": "photos", "max_dropped": max_dropped, **settings}
        project.configure({"datasets": {"photos": dataset}})
        project.run("fetch-photos")
        return list(read_table(project.run("records-photos", threads)))

    return run


def dropped(project) -> list[tuple[str, str]]:
    entries = json.loads((project.root / "data/records/photos/dropped.json").read_text())
    return [(entry["where"], entry["reason"]) for entry in entries]


CSV = "file,caption,split\na.png,one,train\nb.png,two,val\na.png,another one,\nc.png,three,test\n"


def test_rows_of_one_file_are_captions_of_one_record(photos):
    records = photos(CSV)
    assert [(record.key, record.split, record.texts) for record in records] == [
        ("a", "train", ["one", "another one"]),
        ("b", "validation", ["two"]),
        ("c", "test", ["three"]),
    ]


def test_csv_may_have_a_byte_order_mark_quotes_line_breaks_and_further_columns(photos):
    records = photos('\ufefffile,id,caption\r\na.png,1,"Two lines,\r\nand a ""quote"""\r\n\r\nb.png,2,  spaces  \r\n')
    assert [record.texts for record in records] == [['Two lines,\r\nand a "quote"'], ["spaces"]]


def test_jsonl_with_one_or_several_captions(photos):
    rows = [{"file": "a.png", "caption": "one"}, {"file": "b.png", "captions": ["two", "zwei — 二"]}]
    table = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    records = photos(table, captions="captions.jsonl")
    assert [record.texts for record in records] == [["one"], ["two", "zwei — 二"]]


def test_split_is_a_stable_function_of_the_file(photos, project):
    names = [f"{number}.png" for number in range(40)]
    table = "file,caption\n" + "".join(f"{name},x\n" for name in names)
    first = {r.key: r.split for r in photos(table, names, splits={"validation": 0.3, "test": 0.3})}
    assert set(first.values()) == {"train", "validation", "test"}
    fewer = "file,caption\n" + "".join(f"{name},x\n" for name in reversed(names[::2]))
    again = {r.key: r.split for r in photos(fewer, names, splits={"validation": 0.3, "test": 0.3})}
    assert again.items() <= first.items()
    other = {r.key: r.split for r in photos(table, names, splits={"validation": 0.3, "test": 0.3}, seed=7)}
    assert other != first


def test_row_without_caption_is_dropped_and_counted_or_refused(photos, project):
    table = "file,caption\na.png,one\nb.png,\na.png,  \n"
    with pytest.raises(DataError, match=r"2 samples cannot be used and .*captions.csv line 3 \(b.png\): no caption"):
        photos(table)
    records = photos(table, max_dropped=2)
    assert [record.key for record in records] == ["a"]
    assert dropped(project) == [
        ("captions.csv line 3 (b.png)", "no caption"),
        ("captions.csv line 4 (a.png)", "no caption"),
    ]


def test_rows_that_cannot_be_read_are_dropped(photos, project):
    photos("file,caption\na.png,one\nb.png\nb.png,two,too many\n,no file\n", max_dropped=3)
    assert dropped(project) == [
        ("captions.csv line 3", "another number of cells than the header has: 1 instead of 2"),
        ("captions.csv line 4", "another number of cells than the header has: 3 instead of 2"),
        ("captions.csv line 5", "no file is named"),
    ]


def test_jsonl_rows_that_cannot_be_read_are_dropped(photos, project):
    rows = [
        '{"file": "a.png", "caption": "one"}',
        '{"file": "b.png"',
        "[1]",
        '{"image": "b.png"}',
        '{"file": "b.png", "captions": [null, ""]}',
    ]
    photos("\n".join(rows), captions="captions.jsonl", max_dropped=4)
    assert [where for where, _ in dropped(project)] == [f"captions.jsonl line {n}" for n in (2, 3, 4)] + [
        "captions.jsonl line 5 (b.png)"
    ]


def test_images_that_cannot_be_used_are_dropped_once_each(photos, project, write_image):
    root = project.root / "photos"
    write_image(root / "cut.jpg", size=(200, 200))
    (root / "cut.jpg").write_bytes((root / "cut.jpg").read_bytes()[:-2000])
    write_image(root / "cut.png", size=(200, 200))
    (root / "cut.png").write_bytes((root / "cut.png").read_bytes()[:-2000])
    (root / "empty.jpg").write_bytes(b"")
    (root / "page.jpg").write_bytes(b"<html>not found</html>")
    (root / "drawing.svg").write_bytes(b"<svg/>")
    names = ["missing.jpg", "cut.jpg", "cut.png", "empty.jpg", "page.jpg", "drawing.svg", "a.png"]
    table = "file,caption\n" + "".join(f"{name},x\n{name},y\n" for name in names)
    records = photos(table, max_dropped=6, threads=2)
    assert [record.key for record in records] == ["a"]
    found = dropped(project)
    assert [where for where, _ in found] == [
        f"captions.csv line {2 + 2 * n} ({name})" for n, name in enumerate(names[:-1])
    ]
    reasons = [reason for _, reason in found]
    kinds = "it is no JPEG, PNG, WebP, AVIF, TIFF, GIF or BMP"
    assert reasons[0] == "there is no file: missing.jpg"
    assert reasons[1].startswith("the image does not decode: ")
    assert reasons[2].startswith("the image does not decode: ")
    assert reasons[3:5] == [
        "the image is empty",
        f"{kinds}: it is a web page, perhaps an error of a download",
    ]
    assert reasons[5] == f"{kinds}: it is an SVG drawing"


def test_records_are_the_same_however_many_threads_check_the_images(photos, project):
    names = [f"{number}.png" for number in range(30)]
    table = "file,caption\n" + "".join(f"{name},x\n" for name in names)
    photos(table, names)
    first = (project.root / "data/records/photos/records.parquet").read_bytes()
    photos(table, names, threads=4)
    assert (project.root / "data/records/photos/records.parquet").read_bytes() == first


def test_keys_can_name_members_of_a_tar_and_never_meet(photos):
    names = ("a.png", "x/b.png", "y/b.png", "c.d e.png", "ü.png")
    records = photos("file,caption\n" + "".join(f"{name},x\n" for name in names), names)
    keys = [record.key for record in records]
    assert (keys[0], keys[3], keys[4]) == ("a", "c_d_e", "ü")
    assert keys[1].startswith("b-") and keys[2].startswith("b-") and keys[1] != keys[2]
    reversed_rows = photos("file,caption\n" + "".join(f"{name},x\n" for name in reversed(names)), names)
    assert [record.key for record in reversed_rows] == keys[::-1]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "x/../../secret.png", "C:\\secret.png"])
def test_file_outside_the_folder_is_dropped_and_never_read(photos, project, write_image, name):
    write_image(project.root / "secret.png")
    assert [r.key for r in photos(f"file,caption\na.png,one\n{name},two\n", max_dropped=1)] == ["a"]
    [(where, reason)] = dropped(project)
    assert where == f"captions.csv line 3 ({name})"
    outside = "the file name points outside the folder of the dataset"
    assert reason.startswith("there is no file: C:" if name.startswith("C:") else outside)


def test_table_outside_the_folder_is_refused(photos, project):
    with pytest.raises(DataError, match=r"datasets.photos.captions: '../captions.csv' points outside"):
        photos(CSV, captions="../captions.csv")


def test_missing_columns_are_named_with_those_found(photos):
    with pytest.raises(
        DataError,
        match=r"captions.csv: missing column caption; columns found: image, words; expected a CSV, JSONL or .* "
        r"or set params.yaml: datasets.photos.columns: \{file: …, caption: …\}",
    ):
        photos("image,words\na.png,one\n")


def test_missing_table_says_what_was_expected(photos, project):
    photos(CSV)
    (project.root / "photos/captions.csv").unlink()
    project.run("fetch-photos")
    with pytest.raises(
        DataError,
        match=r"datasets.photos.captions: no such file as captions.csv, and no .txt is beside an image; name the table",
    ):
        project.run("records-photos")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "file,caption,split\na.png,one,training\n",
            r"captions.csv line 2 \(a.png\): unknown split: 'training'; did you mean 'train'",
        ),
        (
            "file,caption,split\na.png,one,train\na.png,two,test\n",
            r"line 3 \(a.png\): split test, but an earlier row .* train \(captions.csv line 2",
        ),
        ('file,caption\na.png,"never closed\n', r"captions.csv line 2: the quote that opens here is never closed"),
    ],
)
def test_table_that_contradicts_itself_is_refused(photos, table, message):
    with pytest.raises(DataError, match=message):
        photos(table, max_dropped=9)


def test_table_that_is_not_utf8_is_refused(photos, project):
    photos(CSV)
    (project.root / "photos/captions.csv").write_bytes("file,caption\na.png,Käse\n".encode("latin-1"))
    project.run("fetch-photos")
    with pytest.raises(DataError, match="not UTF-8 text"):
        project.run("records-photos")


def test_media_are_the_bytes_as_they_are_with_a_plain_extension(photos, project, write_image):
    write_image(project.root / "photos/B.JPEG")
    records = photos("file,caption\na.png,one\nB.JPEG,two\n")
    read = folder.media(project.context("shards-photos", project.root / "scratch"))
    assert [read(record) for record in records] == [
        {"png": (project.root / "photos/a.png").read_bytes()},
        {"jpg": (project.root / "photos/B.JPEG").read_bytes()},
    ]


@pytest.mark.parametrize("change", ["altered", "longer", "gone"])
def test_image_that_changed_since_it_was_fetched_is_refused(photos, project, change):
    records = photos("file,caption\na.png,one\n")
    read = folder.media(project.context("shards-photos", project.root / "scratch"))
    path = project.root / "photos/a.png"
    content = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + b"!" if change == "altered" else content + b"!")
    with pytest.raises(DataError, match=r"a.png: (changed|gone) since it was fetched; run again"):
        read(records[0])
