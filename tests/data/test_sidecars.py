"""A tar is indexed as tarfile reads it, or refused with the place of the fault; never read short."""

import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset import TarWriter

from glassworks.data.sidecars import read_head, read_sidecar, scan_tar, sidecar_path, write_sidecar
from glassworks.errors import ArtifactError, DataError

LONG = "folder/" * 20 + "n" * 120
MEMBERS = [("a.jpg", b"j" * 700), ("a.txt", b"one"), ("b.jpg", b""), ("b.txt", b"x" * 512), ("c.seg.PNG", b"p" * 5)]


def tar_bytes(members, form=tarfile.USTAR_FORMAT, **fields) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def scan(tmp_path):
    def scan(content: bytes):
        path = tmp_path / "some.tar"
        path.write_bytes(content)
        return scan_tar(path)

    return scan


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_tarfile_finds_them(scan, form):
    members = [*MEMBERS, ("dir/d.jpg", b"dd"), ("dir/d.json", b"{}")]
    if form != tarfile.USTAR_FORMAT:
        members += [(f"{LONG}.jpg", b"1"), (f"{LONG}.txt", b"2"), ("ünïcode.txt", b"3")]
    content = tar_bytes(members, form)
    found = scan(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = {info.name: (info.offset_data, info.size) for info in tar.getmembers()}
    names = {
        f"{s.key}.{extension.replace('png', 'PNG')}": place
        for s in found.samples
        for extension, place in s.members.items()
    }
    assert names == expected
    assert [s.key for s in found.samples][:4] == ["a", "b", "c", "dir/d"]
    assert list(found.samples[2].members) == ["seg.png"]
    assert (found.sha256, found.size) == (hashlib.sha256(content).hexdigest(), len(content))


def test_a_sidecar_says_what_was_scanned(scan, tmp_path):
    found = scan(tar_bytes(MEMBERS))
    write_sidecar(sidecar_path(tmp_path / "some.tar"), found)
    read = read_sidecar(tmp_path / "some.json")
    assert read_head(tmp_path / "some.json") == ("some.tar", found.sha256, found.size, 3)
    assert read == found
    assert [list(entry.members) for entry in read.samples] == [["jpg", "txt"], ["jpg", "txt"], ["seg.png"]]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 2}', '{"schema": 1, "tar": "x", "samples": [1]}'])
def test_a_file_that_is_no_sidecar_is_refused(tmp_path, text):
    (tmp_path / "some.json").write_text(text)
    for read in (read_sidecar, read_head):
        with pytest.raises(ArtifactError, match=r"some\.json"):
            read(tmp_path / "some.json")
        with pytest.raises(ArtifactError, match="missing"):
            read(tmp_path / "other.json")


def test_a_tar_by_webdataset_is_read(scan):
    file = io.BytesIO()
    with TarWriter(file, compress=False) as writer:
        writer.write({"__key__": "000", "jpg": b"123", "json": {"caption": "x"}})
        writer.write({"__key__": "001", "jpg": b"456", "txt": "y"})
    assert [(s.key, list(s.members)) for s in scan(file.getvalue()).samples] == [
        ("000", ["jpg", "json"]),
        ("001", ["jpg", "txt"]),
    ]


def test_every_truncation_is_refused(scan):
    content = tar_bytes(MEMBERS)
    end = len(content.rstrip(b"\0"))
    end += -end % 512 + 1024  # the last payload, padded, and two zero blocks
    assert len(scan(content[:end]).samples) == 3
    for cut in range(0, end, 64):
        with pytest.raises(DataError, match=r"some\.tar: byte [\d,]+: .*(cut|only one)"):
            scan(content[:cut])


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (0, "byte 0: the tar ends before the first member without its two closing zero blocks"),
        (1536 + 1024, "byte 2,560: the tar ends after the member 'a.txt' without"),
        (1536 + 100, "byte 1,536: the tar is cut inside a header, after the member 'a.jpg'"),
        (700, "byte 700: the tar is cut inside the member 'a.jpg' of sample 'a': 188 of 700 bytes"),
    ],
)
def test_a_truncation_is_named(scan, cut, said):
    with pytest.raises(DataError, match=said):
        scan(tar_bytes(MEMBERS)[:cut])


@pytest.mark.parametrize("byte", [0, 100, 124, 135, 156, 257, 345])
def test_an_altered_header_is_refused(scan, byte):
    content = bytearray(tar_bytes(MEMBERS))
    content[1536 + byte] ^= 1
    with pytest.raises(DataError, match=r"byte 1,536: wrong checksum of the header after the member 'a\.jpg'"):
        scan(bytes(content))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.jpg", b""), ("b.jpg", b""), ("a.txt", b"")], "byte 1,024: sample 'a': its member 'a.txt' is not beside"),
        ([("a.jpg", b""), ("a.JPG", b"")], "sample 'a': the extension 'jpg' comes twice"),
        ([("/a.jpg", b"")], "points outside"),
        ([("x/../../a.jpg", b"")], "points outside"),
    ],
)
def test_members_that_make_no_sample_are_refused(scan, members, said):
    with pytest.raises(DataError, match=said):
        scan(tar_bytes(members))


@pytest.mark.parametrize(
    ("kind", "said"),
    [(tarfile.SYMTYPE, "symbolic link"), (tarfile.LNKTYPE, "hard link"), (tarfile.CHRTYPE, "device")],
)
def test_links_and_devices_are_refused(scan, kind, said):
    with pytest.raises(DataError, match=f"'a.jpg' is a {said}"):
        scan(tar_bytes([("a.jpg", b"")], type=kind, linkname="b.jpg"))


def test_folders_and_webdataset_meta_members_hold_no_sample(scan):
    content = tar_bytes([("x/", b"")], type=tarfile.DIRTYPE)[:512] + tar_bytes([("__meta__", b"m"), ("x/a.txt", b"")])
    assert [s.key for s in scan(content).samples] == ["x/a"]


def test_litter_and_members_that_make_no_sample_are_passed_over(scan):
    members = [("./._a.jpg", b"x"), ("README", b"r"), ("a.jpg", b"1"), ("__MACOSX/._a.txt", b"x"), ("a.txt", b"2")]
    found = scan(tar_bytes([*members, (".DS_Store", b"x"), ("x/.hidden", b"h")]))
    assert [(s.key, list(s.members)) for s in found.samples] == [("a", ["jpg", "txt"])]
    assert found.passed_over == ["README", "x/.hidden"]


def test_joined_and_compressed_tars_are_refused(scan):
    import gzip

    content = tar_bytes(MEMBERS)
    with pytest.raises(DataError, match="data after the end"):
        scan(content + content)
    with pytest.raises(DataError, match="checksum"):
        scan(gzip.compress(content) + bytes(512))


TARS = [tar_bytes([("a.jpg", b"123"), (f"{LONG}.txt", b"2"), ("b.txt", b"")], form) for form in (1, 2)]


@given(st.sampled_from(TARS), st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=12)), max_size=4))
def test_whatever_is_altered_there_is_an_index_or_one_clear_error(tmp_path_factory, content, changes):
    path = tmp_path_factory.getbasetemp() / "altered.tar"
    altered = bytearray(content)
    for at, data in changes:
        altered[at : at + len(data)] = data
    for at in range(0, len(altered) - 511, 512):  # checksums put right, so that the fields themselves are tried
        if altered[at + 257 : at + 262] == b"ustar":
            block = altered[at : at + 148] + b" " * 8 + altered[at + 156 : at + 512]
            altered[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    path.write_bytes(altered)
    try:
        scan_tar(path)
    except DataError as error:
        assert str(error).startswith(str(path))
