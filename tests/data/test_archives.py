"""Archives are extracted whole and inside their folder, or not at all."""

import io
import re
import stat
import tarfile
import zipfile

import pytest

from glassworks.data.fetching import archives
from glassworks.data.fetching.archives import extract, is_inside
from glassworks.errors import DataError, ResourceError

FILES = {"set/captions.csv": b"file,caption\n" * 100, "set/images/a.jpg": bytes(range(256)) * 50, "set/empty.txt": b""}


def make_zip(path, files=FILES, **info):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            for key, value in info.items():
                setattr(member, key, value)
            archive.writestr(member, content)
    return path


def make_tar(path, files=FILES, **info):
    with tarfile.open(path, "w:gz" if path.suffix.lower() in (".gz", ".tgz") else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in info.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return path


def make(path, *arguments, **info):
    return (make_zip if path.suffix == ".zip" else make_tar)(path, *arguments, **info)


NAMES = ("set.zip", "set.tar", "set.tar.gz", "SET.TGZ")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def refused(archive, message, error=DataError):
    """Extraction fails with `message` and leaves nothing behind."""
    folder = archive.parent / "extracted here"
    with pytest.raises(error, match=message) as raised:
        extract(archive, folder / "files")
    assert "\n" not in str(raised.value)
    assert not folder.exists() or list(folder.iterdir()) == []
    assert not (archive.parent / "outside.txt").exists()


def test_every_file_comes_out(tmp_path, name):
    extract(make(tmp_path / name), tmp_path / "files")
    found = {
        path.relative_to(tmp_path / "files").as_posix(): path.read_bytes()
        for path in (tmp_path / "files").rglob("*")
        if path.is_file()
    }
    assert found == FILES
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "member", ["../outside.txt", "set/../../outside.txt", "/outside.txt", "C:\\outside.txt", "..\\outside.txt"]
)
def test_member_that_points_outside_is_refused_and_named(tmp_path, name, member):
    refused(
        make(tmp_path / name, {**FILES, member: b"x"}),
        f"the member {re.escape(repr(member))} is refused: it points outside",
    )


def test_link_in_a_zip_is_refused(tmp_path):
    archive = make_zip(tmp_path / "set.zip", {"set/link": b"/etc/passwd"}, external_attr=(stat.S_IFLNK | 0o777) << 16)
    refused(archive, "the member 'set/link' is refused: it is a link or a device")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_link_or_device_in_a_tar_is_refused(tmp_path, kind):
    archive = make_tar(tmp_path / "set.tar", {**FILES, "set/odd": b""}, linkname="")
    with tarfile.open(archive, "a") as opened:
        member = tarfile.TarInfo("set/trap")
        member.type, member.linkname = kind, "set/captions.csv"
        opened.addfile(member)
    refused(archive, "the member 'set/trap' is refused: it is a link or a device")


def test_files_get_no_special_rights(tmp_path):
    extract(make_tar(tmp_path / "set.tar", {"tool": b"x"}, mode=0o4777), tmp_path / "files")
    assert stat.S_IMODE((tmp_path / "files/tool").stat().st_mode) & 0o7022 == 0


def test_encrypted_member_is_refused(tmp_path):
    archive = make_zip(tmp_path / "set.zip", {"set/a.txt": b"x"})
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    refused(archive, "it is encrypted")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.75])
def test_archive_that_was_cut_is_refused(tmp_path, name, keep):
    archive = make(tmp_path / name)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * keep)])
    refused(archive, "damaged or incomplete")


def test_compressed_tar_without_its_checksum_is_refused(tmp_path):
    archive = make_tar(tmp_path / "set.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-4])
    refused(archive, "damaged or incomplete")


@pytest.mark.parametrize("members", [1, 2])
def test_tar_that_stops_between_two_members_is_refused(tmp_path, members):
    archive = make_tar(tmp_path / "set.tar")
    with tarfile.open(archive) as opened:
        end = opened.getmembers()[members].offset
    archive.write_bytes(archive.read_bytes()[:end])
    refused(archive, "damaged or incomplete")


def test_zip_with_an_altered_byte_is_refused(tmp_path):
    archive = make_zip(tmp_path / "set.zip", {"a.txt": b"the same text " * 50})
    content = bytearray(archive.read_bytes())
    content[45] ^= 0xFF
    archive.write_bytes(content)
    refused(archive, "damaged or incomplete")


def test_file_that_is_no_archive_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>not found</html>" * 100)
    refused(tmp_path / name, "damaged or incomplete")


def test_archive_larger_than_the_disk_is_refused_before_it_is_written(tmp_path, name, monkeypatch):
    archive = make(tmp_path / name)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    refused(archive, "free some space", ResourceError)


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        *((path, True) for path in ("a.jpg", "a/b.jpg", "./a.jpg", "a..b.jpg", "...jpg", "c:1.jpg")),
        *(
            (path, False)
            for path in ("/a.jpg", "../a.jpg", "a/../../b.jpg", "C:\\a.jpg", "\\a.jpg", "a\\..\\..\\b.jpg", "a\0.jpg")
        ),
    ],
)
def test_which_paths_stay_inside(path, inside):
    assert is_inside(path) == inside
