"""Hostile uploads: each is one line, none ends the server, and none reaches the file system."""

import io
import struct
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from ..data.small_shards import picture
from ..inference.test_retrieve import tone
from .conftest import KINDS, client_of, parts, send, text_of


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(side):
    """A PNG of a few kilobytes with `side` x `side` black pixels."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + side // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def animation(side, frames):
    """A GIF of many frames, each of which sets a single pixel."""
    file = io.BytesIO()
    first = Image.new("P", (side, side))
    more = [Image.new("P", (1, 1), number % 2) for number in range(frames - 1)]
    first.save(file, "GIF", save_all=True, append_images=more, duration=20, optimize=False, disposal=1)
    return file.getvalue()


def sound(samples, rate=16_000, form="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form)
    return file.getvalue()


SCRIPT = "<img src=x onerror=alert(1)>.png"
IMAGES = {
    "bomb": (bomb(20_000), "the file: 20,000 x 20,000 pixels are more than max_pixels (50,000,000)"),
    "truncated": (picture(1)[:-30], "the file: the image does not decode: "),
    "damaged": (b"\x89PNG\r\n\x1a\n" + b"\xff" * 99, "the file: the image does not decode"),
    "text": (b"just words", "the file: it is no JPEG, PNG, WebP, AVIF, TIFF, GIF or BMP"),
    "page": (b"<html><script>alert(1)</script>", "it is a web page, perhaps an error of a download"),
    "drawing": (b"<svg onload='alert(1)'/>", "it is an SVG drawing"),
    "archive": (b"PK\x03\x04" + bytes(50), "it is a zip archive or an Excel or Word file"),
    "empty": (b"", "the file: the image is empty"),
    "sound": (sound(tone(1)), "the file: it is no JPEG, PNG"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_file_that_is_no_usable_image_is_one_line(client, root, name):
    content, line = IMAGES[name]
    for kind in ("caption", "ask"):
        [last] = send(client, kind, content, question="what?")
        assert line in last["error"] and "\n" not in last["error"] and len(last["error"]) < 200
    assert text_of(send(client, "caption", picture(1))), "the server goes on"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (lambda: sound(np.zeros((20_000_000, 2), np.int16), form="FLAC"), "the file: the sound has 40,000,000 samples"),
        (lambda: sound(tone(1), rate=999_983), "the file: a rate of 999,983 Hz is not read; convert it to 16,000 Hz"),
        (lambda: sound(tone(1), form="FLAC")[:-2000] , "the file: the audio does not decode: Error : flac decoder lost sync."),
        (lambda: b"fLaC" + bytes(200), "the file: the audio does not decode: "),
        (lambda: b"", "the file: the audio is empty"),
        (lambda: picture(1), "the file: the audio does not decode: it is a PNG image"),
    ],
    ids=["long", "rate", "truncated", "damaged", "empty", "image"],
)  # fmt: skip
def test_a_file_that_is_no_usable_sound_is_one_line(client, content, line):
    [last] = send(client, "transcribe", content())
    assert line in last["error"] and "\n" not in last["error"]


def test_an_animation_of_too_many_pixels_is_refused_and_a_small_one_is_read(client):
    [last] = send(client, "ask", animation(2_000, 81), question="what?")
    assert last["error"] == "the file: the frames have 320,000,000 pixels together; at most 300,000,000 are read"
    assert len(send(client, "ask", animation(20, 3), question="what?")) > 1


@pytest.mark.parametrize("name", ["../../../escaped.png", "/etc/passwd", "a\0b.png", "con.png", SCRIPT, "x" * 500])
def test_the_name_of_a_file_is_never_used(client, root, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    before = {path for path in root.rglob("*")}
    response = client.post(f"/panels/{KINDS.index('caption')}", files=parts({}, picture(1), name))
    expected = client.post(f"/panels/{KINDS.index('caption')}", files=parts({}, picture(1)))
    assert response.text == expected.text and response.headers["content-type"] == "application/x-ndjson"
    assert {path for path in root.rglob("*")} == before and not list(tmp_path.iterdir())


def post(client, content, kind="multipart/form-data; boundary=b", **headers):
    return client.post("/panels/0", content=content, headers={"Content-Type": kind, **headers})


def test_an_upload_that_is_too_large_is_refused_while_it_is_read(panels):
    client = client_of(panels, max_bytes=100_000)
    line = "the file is larger than 0.0954 MiB; --max-megabytes sets the limit\n"
    for response in (
        client.post("/panels/0", files=parts({}, bytes(100_001))),
        client.post("/panels/0", files=parts({}, bytes(3 * 2**20))),
    ):
        assert (response.status_code, response.text) == (413, line)
    assert send(client, "caption", bytes(100_000))[0]["error"].startswith("the file: ")


@pytest.mark.parametrize(
    ("content", "kind", "status", "line"),
    [
        (b"", "text/plain", 415, "the request holds no form"),
        (b"{}", "application/json", 415, "the request holds no form"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "the request holds no form"),
        (b"--b", "multipart/form-data", 415, "the request holds no form"),
        (b"no form at all", "multipart/form-data; boundary=b", 400, "the form is damaged: "),
        (b"--b\r\n\r\nx\r\n--b--", "multipart/form-data; boundary=b", 400, "the form is damaged: "),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", 400, "the form is damaged: "),
        (b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\n' + b"a" * (2**20 + 1) + b"\r\n--b--\r\n", "multipart/form-data; boundary=b", 400, "the form is damaged: Part exceeded"),
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 17 + b"--b--\r\n", "multipart/form-data; boundary=b", 400, "the form is damaged: Too many fields"),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\r\n' * 2 + b"--b--\r\n", "multipart/form-data; boundary=b", 400, "the form is damaged: Too many files"),
        (b"--b", "multipart/form-data; boundary=" + "b" * 5000, 400, "the form is damaged: "),
    ],
)  # fmt: skip
def test_a_damaged_form_is_one_line(client, content, kind, status, line):
    response = post(client, content, kind)
    assert response.status_code == status and line in response.text and response.text.count("\n") == 1


def test_a_form_that_ends_too_early_or_has_other_letters_is_answered(client):
    head = b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\n'
    for charset in ("punycode", "hex", "utf-16", "none"):
        response = post(client, head + b"\xff\xfe\r\n--b--\r\n", f"multipart/form-data; boundary=b; charset={charset}")
        assert response.status_code == 200 and response.text.count("choose an image") == 1
    assert post(client, head + b"cut").status_code in (200, 400)


def test_files_of_all_requests_together_are_limited(panels, monkeypatch):
    from glassworks.demo import server

    monkeypatch.setattr(server, "HELD", 1)
    client = client_of(panels, max_bytes=50_000)
    response = client.post("/panels/0", files=parts({"text": "a" * 60_000}))
    assert (response.status_code, response.text) == (503, "too many files are waiting; try again in a moment\n")
    for _ in range(3):  # what a request held is free again
        assert "error" in send(client, "caption", bytes(40_000))[0]
