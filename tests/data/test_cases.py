"""Inputs that public bug reports describe, through fetch, records and shards: each gives its right value or one clear line.

docs/records/robustness.md is made from what comes out (`--write-docs`) and compared with it.
"""

import codecs
import io
import json
import os
import re
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glassworks.config.datasets import SPLITS
from glassworks.config.user_files import LITTER_NAMES
from glassworks.data.reading.captions import captions_of
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.images import image_of
from glassworks.data.records import read_table
from glassworks.errors import UserError

from ..small_pipeline import REPOSITORY
from .robustness import compare_row
from .small_shards import picture

J = [picture(number, kind="JPEG") for number in range(6)]
IMAGES = {f"g{number}.jpg": J[number] for number in range(6)}


def rows(*lines: str, header: str = "file,caption") -> bytes:
    return "\n".join([header, *lines, ""]).encode()


GOOD = [f"g{number}.jpg,good {number}" for number in range(6)]


def table(content: bytes | list[str], name: str = "captions.csv", **files: bytes) -> dict[str, bytes]:
    content = content if isinstance(content, bytes) else rows(*content)
    return {**IMAGES, name: content, **files}


def jsonl(*lines: str) -> dict[str, bytes]:
    good = [json.dumps({"file": f"g{number}.jpg", "caption": f"good {number}"}) for number in range(5)]
    return table("\n".join([*good, *lines]).encode(), "c.jsonl")


def coco(images: list[tuple[int, str]], captions: list[tuple[object, str]], folder: str = "train2017"):
    def part(images, captions):
        listed = [{"id": number, "file_name": name} for number, name in images]
        entries = [{"image_id": number, "caption": text} for number, text in captions]
        return json.dumps({"images": listed, "annotations": entries}).encode()

    names = {f"{folder}/{name}": J[i % 6] + bytes([i]) for i, (_, name) in enumerate(images)}
    return {
        "annotations/captions_train2017.json": part(images, captions),
        "annotations/captions_val2017.json": part([(1, "v.jpg")], [(1, "val")]),
        f"{folder.replace('train', 'val')}/v.jpg": J[5],
        **names,
    }


def tar(members: list[tuple[bytes | str, bytes]], good: int = 2) -> dict[str, bytes]:
    first = [(f"s{i}.{end}", data) for i in range(good) for end, data in (("jpg", J[i]), ("txt", b"good"))]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as opened:
        for name, data in [*first, *members]:
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return {"0.tar": file.getvalue()}


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip of old tools: its names are UTF-8, as `café` for `caf__`, without the flag that says so."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue().replace(b"caf__.jpg", "café.jpg".encode())


def parquet(columns: dict[str, list]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def karpathy(*entries: dict) -> bytes:
    return json.dumps({"images": list(entries)}).encode()


F, W, C, K, T = ({"source": name} for name in ("folder", "webdataset", "coco_captions", "flickr30k", "texts"))
W = {**W, "tars": {"train": "*.tar"}}
SENTENCES = [{"filename": f"{n}.jpg", "split": s, "sentences": [{"raw": f"good {n}"}]} for n, s in enumerate(("train", "restval", "val", "test"))]  # fmt: skip
NUMBERED = {f"flickr30k_images/{n}.jpg": J[n] for n in range(4)}
TOKEN = "".join(f"{n}.jpg#{k}\tgood {n} {k}\n" for n in range(3) for k in range(2)).encode()
SWALLOWS = ['g0.jpg,"Hello" says a man', 'g1.jpg,"a man', "g2.jpg,good 2", 'g3.jpg,says hi"', *GOOD[4:]]

CASES = [
    (1, "COCO: two images with one id", C, coco([(1, "a.jpg"), (1, "b.jpg")], [(1, "x")])),
    (1, "COCO: ids begin again in val", C, coco([(1, "a.jpg")], [(1, "x")])),
    (1, "COCO: one file under two ids", C, coco([(1, "a.jpg"), (2, "a.jpg")], [(1, "x"), (2, "y")])),
    (1, "CSV: the column caption twice", F, table(rows("g0.jpg,a,b", header="file,caption,caption"))),
    (1, "CSV: the column file twice", F, table(rows("g0.jpg,g1.jpg,b", header="file,file,caption"))),
    (1, "CSV: the same row three times", F, table([GOOD[0]] * 3)),
    (1, "JSONL: a key twice", F, jsonl('{"file": "g5.jpg", "caption": "x", "caption": "y"}')),
    (1, "Karpathy: a file in two splits", {**K, "karpathy": "k.json"}, {**NUMBERED, "k.json": karpathy(SENTENCES[0], {**SENTENCES[0], "split": "test"})}),
    (2, "CSV: a quote swallows rows", F, table(SWALLOWS)),
    (2, "CSV: a quote opened in the last row", F, table([*GOOD[:5], 'g5.jpg,"never closed'])),
    (2, "CSV: a quote inside quotes", F, table([*GOOD[:5], 'g5.jpg,"a 5" pipe"'])),
    (2, "CSV: a caption of two lines", F, table([*GOOD[:5], 'g5.jpg,"two', 'lines, and a comma"'])),
    (2, "CSV: caption first, of two lines", F, table(rows('"two', 'lines",g0.jpg', header="caption,file"))),
    (2, "images that no row names", F, table(GOOD[:2])),
    (3, "tar: keys with dots", W, tar([("photo.1.jpg", J[2]), ("photo.2.jpg", J[3]), ("photo.3.jpg", J[4])])),
    (5, "folder: litter", F, table(GOOD, **{".DS_Store": b"x", "._g0.jpg": b"x", "Thumbs.db": b"x"})),
    (7, "the same image under two names", F, table(GOOD, **{"copy.jpg": J[0]}) | {"captions.csv": rows(*GOOD, "copy.jpg,good copy")}),
    (7, "the same image in two published splits", F, {**IMAGES, "c.jpg": J[0], "captions.csv": rows("g0.jpg,a,train", "c.jpg,b,test", header="file,caption,split")}),
    (7, "tar: the same image in two splits", {**W, "tars": {"train": "0.tar", "test": "1.tar"}}, tar([]) | {"1.tar": tar([])["0.tar"]}),
    (8, "CSV: a byte order mark", F, table(codecs.BOM_UTF8 + rows(*GOOD))),
    (8, "CSV: a NUL in a caption", F, table([*GOOD[:5], "g5.jpg,a\0dog"])),
    (8, "CSV: nan, None, NULL, empty", F, table([*GOOD[:2], "g2.jpg,nan", "g3.jpg,None", "g4.jpg,NULL", "g5.jpg,"])),
    (8, "CSV: only zero-width characters", F, table([*GOOD[:5], "g5.jpg,\u200b\ufeff\u2060"])),
    (8, "CSV: a control token in a caption", F, table([*GOOD[:5], "g5.jpg,a sign <|eos|> there"])),
    (8, "CSV: a cell of 140,000 characters", F, table([*GOOD[:5], f"g5.jpg,{'word ' * 28_000}"])),
    (8, "tar: json and txt differ", W, tar([("a.jpg", J[2]), ("a.json", b'{"caption": "x"}'), ("a.txt", b"y")])),
    (8, "tar: a txt of five lines", W, tar([("a.jpg", J[2]), ("a.txt", b"1 a\n2 b\n3 c\n4 d\n5 e")])),
    (9, "JSONL: half an emoji in a caption", F, jsonl('{"file": "g5.jpg", "caption": "a cat \\ud83d"}')),
    (9, "JSONL: half a character in a file name", F, jsonl('{"file": "\\udce9.jpg", "caption": "x"}')),
    (9, "JSONL: a number of 5,000 digits", F, jsonl('{"file": "g5.jpg", "caption": "x", "id": ' + "1" * 5000 + "}")),
    (9, "JSONL: nested 100,000 deep", F, jsonl('{"file": "g5.jpg", "caption": ' + "[" * 100_000 + "]" * 100_000 + "}")),
    (9, "tar: labels with NaN", W, tar([("a.jpg", J[2]), ("a.json", b'{"caption": "x", "labels": {"a": NaN}}')])),
    (9, "tar: half an emoji", W, tar([("a.jpg", J[2]), ("a.json", b'{"caption": "\\ud83d"}')])),
    (9, "tar: a member name in latin-1", W, tar([(b"caf\xe9.jpg", J[2]), (b"caf\xe9.txt", b"x")])),
    (9, "COCO: an image_id that is a list", C, coco([(1, "a.jpg")], [(1, "x"), ([1], "y")])),
    (9, "folder: a file name in latin-1", F, table(GOOD, **{os.fsdecode(b"caf\xe9.jpg"): b"x"})),
    (11, "links to the folder of the images", F, {"images/g0.jpg": J[0], "a": "->images", "z": "->images", "images/up": "->..", "captions.csv": rows("images/g0.jpg,x", "z/g0.jpg,y")}),
    (11, "a broken link", F, table(GOOD) | {"g9.jpg": "->nowhere"}),
    (12, "CSV: a path outside", F, table([*GOOD[:5], "/etc/g5.jpg,x"])),
    (12, "CSV: absolute paths inside", F, table([*GOOD[:5], "FOLDER/g5.jpg,x"])),
    (12, "CSV: backslashes", F, {"images/g0.jpg": J[0], "captions.csv": rows(r"images\g0.jpg,x")}),
    (12, "CSV: another case", F, table([*GOOD[:5], "G5.JPG,x"])),
    (12, "CSV: no extension", F, table([*GOOD[:5], "g5,x"])),
    (12, "CSV: a percent-encoded name", F, table([*GOOD, "a%20b.jpg,x"]) | {"a b.jpg": J[1] + b"1"}),
    (12, "CSV: NFC for a name in NFD", F, {"cafe\u0301.jpg": J[0], "captions.csv": rows("caf\u00e9.jpg,x")}),
    (12, "CSV: colons in names", F, {"c:1.jpg": J[0], "captions.csv": rows("c:1.jpg,x")}),
    (12, "an archive of the images beside the table", F, {"images.zip": zipped(IMAGES), "captions.csv": rows(*GOOD)}),
    (12, "a JPEG without extension", F, table([*GOOD, "0001,x"]) | {"0001": J[2] + b"1"}),
    (12, "an AVIF named .jpg", F, table([*GOOD, "x.jpg,x"]) | {"x.jpg": b"\0\0\0\x1cftypavif" + bytes(40)}),
    (12, "a git-lfs pointer", F, table([*GOOD, "x.jpg,x"]) | {"x.jpg": b"version https://git-lfs.github.com/spec/v1\n"}),
    (12, "CSV: the header alone", F, table([])),
    (12, "CSV: Windows-1252", F, table(rows(*GOOD[:5]) + "g5.jpg,café\n".encode("cp1252"))),
    (12, "JSONL that is an array", F, table(b'[\n{"file": "g0.jpg",\n"caption": "x"}\n]', "c.jsonl")),
    (12, "JSON of another layout (LLaVA)", F, table(b'[{"image": "g0.jpg", "conversations": []}]', "c.json")),
    (12, "tar: every sample lacks a caption", W, tar([("a.jpg", J[0]), ("b.jpg", J[1])], good=0)),
    (12, "tar: image and text in two folders", W, tar([("images/a.jpg", J[0]), ("texts/a.txt", b"x")])),
    (12, "tar: README and litter", W, tar([("README", b"r"), ("./._a.jpg", b"x"), (".DS_Store", b"x")])),
    (12, "tar: .text in place of .txt", W, tar([("a.jpg", J[2]), ("a.text", b"x")])),
    (13, "zip by macOS", F, zipped({f"d/{k}": v for k, v in table(GOOD).items()} | {"__MACOSX/d/._g0.jpg": b"x"})),
    (13, "zip by Windows, with backslashes", F, zipped({f"d\\{k}": v for k, v in table(GOOD).items()})),
    (13, "zip without the flag of UTF-8", F, zipped({"caf__.jpg": J[0], "captions.csv": rows("café.jpg,x")})),
    (14, "CSV: columns image,text", F, table(rows(*GOOD, header="image,text"))),
    (14, "CSV: columns File, Caption", F, table(rows(*GOOD, header="File, Caption"))),
    (14, "CSV: unknown columns", F, table(rows(*GOOD, header="bild,words"))),
    (14, "CSV: unknown columns, mapped", {**F, "columns": {"file": "bild", "caption": "words"}}, table(rows(*GOOD, header="bild,words"))),
    (14, "CSV: caption_0 … caption_2", F, table(rows("g0.jpg,a,b,c", header="file_name,caption_0,caption_1,caption_2"))),
    (14, "CSV: semicolons", F, table(rows(*GOOD).replace(b",", b";"))),
    (14, "CSV: UTF-16", F, table(rows(*GOOD).decode().encode("utf-16"))),
    (14, "JSONL: a list under caption, a text under captions", F, jsonl('{"file": "g5.jpg", "caption": ["a", "b"]}', '{"file": "g5.jpg", "captions": "c"}')),
    (14, "parquet", F, table(parquet({"file": list(IMAGES), "caption": ["x", "y", None, "z", "u", "v"]}), "c.parquet")),
    (14, "imagefolder of Hugging Face", F, {"train/a.jpg": J[0], "train/metadata.jsonl": b'{"file_name": "a.jpg", "text": "x"}', "test/b.jpg": J[1], "test/metadata.jsonl": b'{"file_name": "b.jpg", "text": "y"}'}),
    (14, "a .txt beside each image", F, {**IMAGES, **{f"g{n}.txt": f"good {n}".encode() for n in range(6)}}),
    (14, "Kaggle's captions.txt with Images/", F, {**{f"Images/{k}": v for k, v in IMAGES.items()}, "captions.txt": rows(*GOOD, header="image,caption")}),
    (14, "Flickr's .token", K, {"results_20130124.token": TOKEN, **{f"flickr30k-images/{n}.jpg": J[n] for n in range(3)}}),
    (14, "Flickr: results.csv quoted by pandas", K, {**NUMBERED, "results.csv": b'image_name| comment_number| comment\n0.jpg| 0|" says ""hi"" ."\n'}),
    (14, "Karpathy's JSON of Flickr alone", {**K, "karpathy": "k.json"}, {**NUMBERED, "k.json": karpathy(*SENTENCES)}),
    (14, "Karpathy's JSON of COCO", {**C, "karpathy": "dataset_coco.json"}, {f"val2014/{n}.jpg": J[n] for n in range(4)} | {"dataset_coco.json": karpathy(*({**one, "filepath": "val2014"} for one in SENTENCES))}),
    (14, "Karpathy's JSON in a folder", F, {f"Images/{n}.jpg": J[n] for n in range(4)} | {"dataset_flickr8k.json": karpathy(*SENTENCES)}),
    (14, "COCO: images/train2017", C, coco([(1, "a.jpg")], [(1, "x")], folder="images/train2017")),
    (28, "texts: .txt and JSONL", T, {"a.txt": b"one document", "b.jsonl": b'{"text": "second"}\n{"text": null}\n{"text": "third"}'}),
    (28, "texts: paragraphs", {**T, "unit": "paragraph"}, {"a.txt": b"one\nline\n\n\ntwo\n", "b.txt": b""}),
]  # fmt: skip


def outcome(project, root: Path, source: dict, content, capsys) -> str:
    """What comes out of the three stages, in words."""
    if isinstance(content, bytes):
        (root / "d.zip").write_bytes(content)
    else:
        for name, data in content.items():
            path = root / "d" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, str):
                path.symlink_to(data.removeprefix("->"))
            else:
                path.write_bytes(data.replace(b"FOLDER", str(root / "d").encode()))
    path = "d.zip" if isinstance(content, bytes) else "d"
    tables = [name for name in ("c.jsonl", "c.json", "c.parquet") if not isinstance(content, bytes) and name in content]
    settings = {"captions": tables[0]} if tables else {}
    if source["source"] not in ("webdataset",):
        settings["splits"] = {"validation": 0.0, "test": 0.0}
    project.configure({"datasets": {"d": {**source, **settings, "path": path, "max_dropped": 9}}})
    try:
        for stage in ("fetch", "records", "shards"):
            project.run(f"{stage}-d")
    except UserError as error:
        assert "\n" not in str(error)
        return f"refused: {re.sub(re.escape(str(root)) + '/', '', str(error))}"
    found = list(read_table(project.root / "data/records/d"))
    assert read_as_training_does(project.root / "data/shards/d") == sorted(
        (record.key, len(record.texts)) for record in found
    )
    said = [line.removeprefix("d: ") for line in capsys.readouterr().err.splitlines() if line.startswith("d: ")]
    said = [re.sub(r"^\d+ samples \(.*?\)(, )?", "", line) for line in said]
    listed = json.loads((project.root / "data/records/d/dropped.json").read_text())
    reasons = [f"{item['where']}: {item['reason']}" for item in listed]
    captions = sum(len(record.texts) for record in found)
    lines = [f"{len(found)} records, {captions} captions", *(line for line in said if line), *reasons[:2]]
    return "; ".join(line.replace(f"{root}/", "") for line in lines)


def read_as_training_does(shards: Path) -> list[tuple[str, int]]:
    """Decodes every image, and returns the sorted keys with their numbers of captions."""
    samples = [sample for split in SPLITS for sample in ShardDataset(shards, split)]
    for sample in samples:
        if sample.members.keys() - {"json", "txt"}:
            assert image_of(sample, 32).shape == (3, 32, 32)
    return sorted((sample.key, len(captions_of(sample))) for sample in samples)


def test_what_is_kept_of_a_table_with_an_open_quote_is_right(project, tmp_path, capsys):
    outcome(project, tmp_path, F, table(SWALLOWS), capsys)
    found = {record.media["file"]: record.texts for record in read_table(project.root / "data/records/d")}
    assert found == {"g2.jpg": ["good 2"], "g3.jpg": ['says hi"'], "g4.jpg": ["good 4"], "g5.jpg": ["good 5"]}


def test_copies_of_an_image_share_a_split(project, write_image):
    names = [f"{letter}{number}.png" for number in range(12) for letter in "abc"]
    for name in names:
        write_image(project.root / "d" / name, seed=int(name[1:-4]))
    (project.root / "d/captions.csv").write_bytes(rows(*(f"{name},x" for name in names)))
    splits = {"validation": 0.3, "test": 0.3}
    project.configure({"datasets": {"d": {**F, "path": "d", "splits": splits}}})
    project.run("fetch-d")
    found = {record.key: record.split for record in read_table(project.run("records-d"))}
    assert len(set(found.values())) == 3
    assert all(found[f"a{n}"] == found[f"b{n}"] == found[f"c{n}"] for n in range(12))


def test_dvc_ignores_the_same_litter():
    listed = (REPOSITORY / ".dvcignore").read_text().splitlines()
    known = {".git", ".gitignore", ".gitattributes", ".gitkeep", ".hg", ".svn", "Icon\r"}  # the last would match Icons
    assert {name for name in LITTER_NAMES if name.replace("#", "\\#", name.startswith("#")) not in listed} == known


@pytest.mark.parametrize(("kind", "name", "source", "content"), CASES, ids=[f"{case[0]} {case[1]}" for case in CASES])
def test_what_comes_out_is_what_the_table_says(project, tmp_path, capsys, request, kind, name, source, content):
    out = outcome(project, tmp_path, source, content, capsys)
    compare_row(request, kind, name, out)
