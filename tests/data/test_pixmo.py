"""PixMo in its published schema, with images from a server on this machine: captions, points and counts as message trees."""

import hashlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glassworks.config.datasets import Credit
from glassworks.config.registry import settings as settings_of
from glassworks.data.messages import Medium, Message, Size
from glassworks.data.points import parse_points
from glassworks.data.records import Record, read_table
from glassworks.data.scenes.layout import Dice
from glassworks.errors import DataError
from glassworks.sources.pixmo_cap.source import style_prompt

TEXT = pa.string()
XY = pa.struct([("x", pa.float64()), ("y", pa.float64())])
CAP = pa.schema([("image_url", TEXT), ("caption", TEXT), ("transcripts", pa.list_(TEXT))])
POINTS = pa.schema(
    [
        ("image_url", TEXT),
        ("image_sha256", TEXT),
        ("points", pa.list_(XY)),
        ("count", pa.int64()),
        ("label", TEXT),
        ("collection_method", TEXT),
    ]
)
COUNT = pa.schema(
    [
        ("image_url", TEXT),
        ("image_sha256", TEXT),
        ("count", pa.int64()),
        ("points", pa.struct([("x", pa.list_(pa.float64())), ("y", pa.list_(pa.float64()))])),
        ("label", TEXT),
    ]
)
SCHEMAS = {"pixmo_cap": CAP, "pixmo_points": POINTS, "pixmo_count": COUNT}
ALL_TRAIN = {"validation": 0.0, "test": 0.0}


def picture(seed: int, size: tuple[int, int] = (40, 20)) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def make(project, file_server):
    """Writes tables of a source in its published types, and runs fetch and records; returns the records."""

    def run(source, tables, **settings) -> list[Record]:
        folder = project.root / "data/pixmo"
        for name, rows in (tables if isinstance(tables, dict) else {"train": tables}).items():
            named = [{**row, "image_url": row["image_url"] and file_server.url + row["image_url"]} for row in rows]
            path = folder / f"data/{name}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(named, SCHEMAS[source]), path)
        dataset = {"source": source, "path": "data/pixmo", "private_addresses": True, **settings}
        dataset.setdefault("downloads", {"backoff_seconds": 0, "retries": 0})
        project.configure({"datasets": {"pixmo": dataset}})
        project.run("fetch-pixmo")
        return list(read_table(project.run("records-pixmo")))

    return run


def told(project, name: str) -> list[tuple[str, str]]:
    entries = json.loads((project.root / f"data/records/pixmo/{name}.json").read_text())
    return [(entry["where"], entry["reason"]) for entry in entries]


def caption(path: str, text: str, *transcripts: str) -> dict:
    return {"image_url": path, "caption": text, "transcripts": list(transcripts)}


def pointed(path: str, label: str, *points: tuple[float, float], **more) -> dict:
    row = {"image_url": path, "image_sha256": None, "label": label, "count": len(points)}
    return {**row, "points": [{"x": x, "y": y} for x, y in points], "collection_method": "pointing", **more}


def counted(path: str, label: str, count: int, *points: tuple[float, float], **more) -> dict:
    xy = {"x": [x for x, _ in points], "y": [y for _, y in points]} if points else None
    return {"image_url": path, "image_sha256": None, "label": label, "count": count, "points": xy, **more}


def branches(record: Record) -> list[tuple[str, str]]:
    """Question and answer of each branch."""
    texts = [message.content for message in record.messages[1:]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_captions_are_texts_and_a_message_tree_with_the_style_prompt(make, file_server, project):
    file_server.files["/a.jpg"] = picture(0)
    [record] = make("pixmo_cap", [caption("/a.jpg", " A long caption. ", "uh a caption")], splits=ALL_TRAIN)
    assert record.texts == ["A long caption."]
    assert record.messages[0] == Message(role="user", content=[Medium(type="image", media="png")])
    (first, answer), (second, spoken) = branches(record)
    assert (answer, spoken) == ("A long caption.", "uh a caption")
    assert first.startswith("long_caption") and first.endswith(":")
    assert second.startswith("transcript") and second.endswith(":")
    assert [message.branch for message in record.messages] == [0, 1, 1, 2, 2]
    assert record.sizes == {"png": Size(kind="image", width=40, height=20)}
    assert record.labels["image_url"] == f"{file_server.url}/a.jpg"
    assert [one["kind"] for one in record.labels["questions"]] == ["long_caption", "transcript"]
    shards = project.run("shards-pixmo")
    assert picture(0) in (shards / "train-00000.tar").read_bytes()


def test_the_number_of_a_style_prompt_tells_the_length_with_noise():
    prompts = [style_prompt("long_caption", "x" * 1245, Dice(0, number)) for number in range(2000)]
    numbers = [int(prompt.split()[1].rstrip(":")) for prompt in prompts if " " in prompt]
    assert 0.88 < len(numbers) / len(prompts) < 0.92
    assert abs(np.mean(numbers) - (1245 / 15 - 0.5)) < 0.15
    assert abs(np.std(numbers) - 25 / 15) < 0.1
    assert style_prompt("long_caption", "", Dice(0, 3)).startswith("long_caption")


def test_transcripts_are_chosen(make, file_server):
    file_server.files["/a.png"] = picture(0)
    for choice, count in {"none": 0, "all": 3}.items():
        [record] = make("pixmo_cap", [caption("/a.png", "c", "t1", "t2", "t3")], transcripts=choice, splits=ALL_TRAIN)
        kinds = [one["kind"] for one in record.labels["questions"]]
        assert kinds == ["long_caption"] + ["transcript"] * count


def test_the_rows_of_an_image_are_one_tree_also_under_two_urls(make, file_server):
    file_server.files |= {"/a.png": picture(0), "/b.png": picture(1), "/copy.png": picture(0)}
    rows = [
        pointed("/a.png", "Cats", (80.04, 10), (12.5, 79.96)),
        pointed("/b.png", "dog", (100, 0)),
        pointed("/copy.png", "a hat"),
        pointed("/a.png", "tree", (50, 50), collection_method="counting"),
    ]
    second, first = make("pixmo_points", rows, splits=ALL_TRAIN)
    assert [answer for _, answer in branches(first)] == [
        '<points x1="12.5" y1="80.0" x2="80.0" y2="10.0" alt="cats">cats</points>',
        "There are none.",
        '<point x="50.0" y="50.0" alt="tree">tree</point>',
    ]
    assert branches(second)[0][1] == '<point x="100.0" y="0.0" alt="dog">dog</point>'
    assert all("cats" in question or number for number, (question, _) in enumerate(branches(first)))
    assert [one["number"] for one in first.labels["questions"]] == [2, 0, 1]
    assert {one["kind"] for one in first.labels["questions"]} == {"where"}
    [only] = make("pixmo_points", rows, collection="counting", splits=ALL_TRAIN)
    assert [one["object"] for one in only.labels["questions"]] == ["tree"]


def test_all_questions_of_an_image_share_a_split(make, file_server):
    paths = [f"/{number}.png" for number in range(40)]
    file_server.files |= {path: picture(number) for number, path in enumerate(paths)}
    rows = [pointed(path, label, (1, 1)) for label in ("a", "b", "c") for path in paths]
    records = make("pixmo_points", rows, tree_size=4, splits={"validation": 0.3, "test": 0.3})
    assert len(records) == 80  # two rows in a tree, one in another
    assert len({record.key for record in records}) == 80
    splits = {record.group: set() for record in records}
    for record in records:
        splits[record.group].add(record.split)
    assert len(splits) == 40 and all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}


BROKEN = [
    (pointed("/a.png", "x", (100.1, 5)), "a point lies outside the picture: 100.1, 5 in percent"),
    (pointed("/a.png", "x", (5, -0.04)), "a point lies outside the picture: 5, -0.04 in percent"),
    (pointed("/a.png", "x", (5, float("nan"))), "a point lies outside the picture: 5, nan in percent"),
    (pointed("/a.png", "x", (5, None)), "points are no list of x and y"),
    (pointed("/a.png", "x", (5, 5), count=3), "another count than points: 3 and 1"),
    (pointed("/a.png", "x", count=None), "no count (found: None)"),
    (pointed("/a.png", "x", count=2), "no points are published, and no question can do without"),
    (pointed("/a.png", 'a "b"', (5, 5)), 'the label holds ", < or >'),
    (pointed("/a.png", " ", (5, 5)), "no label"),
    (pointed("/a.png", "x", *[(n, n) for n in range(9)]), "more points than a message tree may hold: 9"),
    (pointed(None, "x", (5, 5)), "no image_url"),
    (pointed("/bad.png", "x", (5, 5)), "the image does not decode"),
]


def test_a_row_that_cannot_be_used_is_dropped_with_its_reason(make, file_server, project):
    file_server.files |= {"/a.png": picture(0), "/bad.png": picture(1)[:1000]}
    rows = [pointed("/a.png", "y", (1, 1)), *(row for row, _ in BROKEN)]
    [record] = make("pixmo_points", rows, max_dropped=len(BROKEN), tree_size=8, splits=ALL_TRAIN)
    assert len(branches(record)) == 1
    found = {where.split()[2]: reason for where, reason in told(project, "dropped")}
    for number, (_, reason) in enumerate(BROKEN, start=2):
        assert found[str(number)].startswith(reason)
    with pytest.raises(DataError, match=r"12 samples cannot be used and datasets.pixmo.max_dropped is 11: "):
        make("pixmo_points", rows, max_dropped=11, tree_size=8, splits=ALL_TRAIN)


def test_counts_have_published_splits_pixels_and_no_points_where_they_are_held_out(make, file_server, project):
    file_server.files |= {path: picture(number) for number, path in enumerate(("/a.png", "/b.png", "/c.png"))}
    tables = {
        "train": [counted("/a.png", "People", 2, (20, 10), (4, 5))],
        "validation": [counted("/b.png", "cars", 3)],
        "test": [counted("/c.png", "dogs", 0), counted("/a.png", "hats", 1)],
    }
    records = {
        (record.split, record.labels["questions"][0]["object"]): record for record in make("pixmo_count", tables)
    }
    assert set(records) == {("train", "people"), ("validation", "cars"), ("test", "dogs"), ("test", "hats")}
    train = records["train", "people"]
    assert [answer for _, answer in branches(train)] == [
        '<points x1="10.0" y1="25.0" x2="50.0" y2="50.0" alt="people">people</points>',
        "2",
    ]
    assert parse_points(branches(train)[0][1]) == [(10, 25), (50, 50)]
    assert [answer for _, answer in branches(records["validation", "cars"])] == ["3"]
    assert [answer for _, answer in branches(records["test", "dogs"])] == ["There are none.", "0"]
    assert train.group != records["test", "hats"].group and train.key != records["test", "hats"].key
    assert ("", "an image has rows in two splits, as published") in told(project, "remarks")
    both = make("pixmo_count", tables, questions=["point and count"], max_dropped=2)
    assert branches(next(record for record in both if record.split == "train"))[0][1] == (
        'Counting the <points x1="10.0" y1="25.0" x2="50.0" y2="50.0" alt="people">people</points> shows a total of 2.'
    )


def test_rows_of_failed_and_later_images_are_left_out_and_told(make, file_server, project):
    file_server.files |= {"/a.png": picture(0), "/b.png": picture(1), "/c.png": picture(2)}
    rows = [pointed(path, "x", (1, 1)) for path in ("/a.png", "/gone.png", "/b.png", "/b.png", "/c.png")]
    rows[2]["image_sha256"] = rows[3]["image_sha256"] = hashlib.sha256(b"").hexdigest()
    downloads = {"retries": 0, "max_failures": 0.7}
    assert len(make("pixmo_points", rows, images=3, downloads=downloads, splits=ALL_TRAIN)) == 1
    told_ = dict((reason, where) for where, reason in told(project, "remarks"))
    assert set(told_) == {
        "a row is left out, since its image is beyond `images`",
        "a row is left out, since its image was not downloaded (failures.jsonl)",
    }
    assert len(make("pixmo_points", rows, images=3, downloads=downloads, check_digests=False, splits=ALL_TRAIN)) == 2


def test_a_table_of_another_schema_or_name_is_one_line(make, file_server, project):
    file_server.files["/a.png"] = picture(0)
    make("pixmo_cap", [caption("/a.png", "c")])
    dataset = {"source": "pixmo_points", "path": "data/pixmo", "private_addresses": True, "check_digests": False}
    project.configure({"datasets": {"pixmo": dataset}})
    project.run("fetch-pixmo")
    with pytest.raises(
        DataError, match=r"missing column points; columns found: image_url, caption.*; expected image_url"
    ):
        project.run("records-pixmo")
    with pytest.raises(DataError, match=r"begins with no split \(train-, validation-, test-\)"):
        make("pixmo_count", {"rows": [counted("/a.png", "x", 1)]}, files="*rows*")
    with pytest.raises(DataError, match=r"datasets.pixmo.files: \*.pq matches no .parquet file"):
        make("pixmo_count", {"rows": [counted("/a.png", "x", 1)]}, files="*.pq")


def test_a_changed_tar_is_named(make, file_server, project):
    file_server.files["/a.png"] = picture(0)
    make("pixmo_cap", [caption("/a.png", "c")], splits=ALL_TRAIN)
    tar = project.root / "data/raw/pixmo/images-00000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(DataError, match=r"images-00000.tar: changed since it was fetched; run again"):
        project.run("shards-pixmo")


@pytest.mark.parametrize("source", SCHEMAS)
def test_the_licence_is_stated(source):
    credit = settings_of("sources", source).CREDIT
    assert isinstance(credit, Credit) and "ODC-By" in credit.licence
