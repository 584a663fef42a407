"""Images by URL: what a hostile web answers is an image or a listed failure, and the raw artefact does not depend on the way."""

import contextlib
import hashlib
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glassworks.config.datasets import Downloads
from glassworks.data.fetching import image_urls
from glassworks.data.fetching.http_session import is_private
from glassworks.data.fetching.robots import Robots, opt_out
from glassworks.data.fetching.schedule import Schedule
from glassworks.data.fetching.web_images import Failed, Passing, Wanted, WebImages
from glassworks.errors import DataError, FetchError

QUICK = {"backoff_seconds": 0, "connect_seconds": 5, "read_seconds": 5, "total_seconds": 9, "retries": 1}
SHORT = {"hangs": {"read_seconds": 0.2}, "drips": {"total_seconds": 0.6}, "drips its header": {"total_seconds": 0.6}}


def picture(seed: int = 0, size: tuple[int, int] = (16, 12)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


class Web:
    """A web server on this machine. `answers` holds what each path does to a handler."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {"/robots.txt": send(b"", status=404)}
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.together = self.most = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.url = ""

    def picture(self, path: str, seed: int = 0, **more) -> bytes:
        content = picture(seed)
        self.answers[path] = send(content, **more)
        return content

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self.lock:
            self.asked[handler.path] += 1
            self.agents.add(handler.headers["User-Agent"])
            self.together += 1
            self.most = max(self.most, self.together)
        try:
            self.answers.get(handler.path, send(b"", status=404))(handler)
        finally:
            with self.lock:
                self.together -= 1


def send(body: bytes, status: int = 200, kind: str = "image/png", delay: float = 0.0, **headers: str):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(delay)
        handler.send_response(status)
        for name, value in {"Content_Type": kind, "Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirect(location: str):
    return send(b"", status=302, Location=location)


@pytest.fixture
def web() -> Iterator[Web]:
    served = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client cut the answer off, as the test wants
                served.answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield served
        served.closing.set()
        server.shutdown()


@pytest.fixture
def get(web):
    def get(path: str, sha256: str | None = None, private: bool = True, robots: bool = True, **limits) -> bytes:
        max_bytes = limits.pop("max_bytes", 100_000)
        images = WebImages(Downloads(**{**QUICK, **limits}), max_bytes, private, robots)
        return images.get(Wanted(path if ":" in path else web.url + path, sha256))

    return get


def test_an_image_arrives_byte_for_byte_with_its_published_digest(web, get):
    content = web.picture("/a.png")
    assert get("/a.png", hashlib.sha256(content).hexdigest().upper()) == content
    assert web.agents == {"glassworks/0.1.0"}


def test_redirects_are_followed_and_a_loop_ends(web, get):
    content = web.picture("/b.png")
    web.answers |= {"/a": redirect("c"), "/c": redirect("/b.png#part"), "/loop": redirect("/loop")}
    assert get("/a") == content
    with pytest.raises(Failed, match=r"^too many redirects$"):
        get("/loop")
    assert web.asked["/loop"] == 6


def endless(web: Web):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not web.closing.is_set():
            handler.wfile.write(bytes(1 << 16))

    return answer


def endless_redirect(web: Web):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/good.png")
        handler.end_headers()
        while not web.closing.is_set():
            handler.wfile.write(bytes(1 << 16))

    return answer


def dripping(web: Web):
    """A body of 1,000 bytes, one each 50 ms: no single read exceeds its limit."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not web.closing.wait(0.05):
            handler.wfile.write(b"x")

    return answer


def dripping_header(web: Web):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        while not web.closing.wait(0.05):
            handler.wfile.write(b"H")

    return answer


def hanging(web: Web):
    return lambda handler: web.closing.wait(1) and None


def cut(web: Web):
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x")

    return answer


PAGE = send(b"<!DOCTYPE html><html></html>")
HOSTILE: dict[str, tuple[Callable[[Web], Callable], type, str]] = {
    "not found": (lambda web: send(b"", status=404), Failed, "HTTP 404"),
    "busy": (lambda web: send(b"", status=429, Retry_After="7"), Passing, "HTTP 429"),
    "broken": (lambda web: send(b"", status=500), Passing, "HTTP 500"),
    "hangs": (hanging, Passing, "no answer in time"),
    "drips": (dripping, Passing, "no answer in time"),
    "drips its header": (dripping_header, Passing, "no answer in time"),
    "cut": (cut, Passing, "the connection failed"),
    "endless": (endless, Failed, "larger than max_bytes (100,000)"),
    "states 2 GB": (lambda web: send(b"", Content_Length=str(2 << 30)), Failed, "larger than max_bytes (100,000)"),
    "a page": (lambda web: PAGE, Failed, "no image: it is a web page, perhaps an error of a download"),
    "empty": (lambda web: send(b""), Failed, "no image"),
    "damaged": (lambda web: send(picture()[:20]), Failed, "no image"),
    "file": (lambda web: redirect("file:///etc/passwd"), Failed, "no http or https address"),
    "no host": (lambda web: redirect("https:///a.png"), Failed, "no http or https address"),
    "opt-out": (lambda web: send(picture(), X_Robots_Tag="noai"), Failed, "opt-out: X-Robots-Tag: noai"),
    "opt-out by name": (
        lambda web: send(picture(), X_Robots_Tag="max-snippet: 2, glassworks: nofollow, noimageindex"),
        Failed,
        "opt-out: X-Robots-Tag: noimageindex",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_image_is_a_failure_with_a_stable_reason(web, get, name):
    make, kind, reason = HOSTILE[name]
    web.answers["/x.png"] = make(web)
    before = time.monotonic()
    with pytest.raises(Failed) as caught:
        get("/x.png", **SHORT.get(name, {}))
    assert type(caught.value) is kind
    assert str(caught.value) == reason or (reason == "no image" and str(caught.value).startswith("no image"))
    assert time.monotonic() - before < 4
    assert caught.value.wait == 7 if name == "busy" else True


def test_the_endless_body_of_a_redirect_is_not_read(web, get):
    content = web.picture("/good.png")
    web.answers["/x.png"] = endless_redirect(web)
    assert get("/x.png") == content


def test_a_wrong_digest_is_a_failure(web, get):
    content = web.picture("/a.png")
    with pytest.raises(Failed, match=rf"^another sha256 than published: {hashlib.sha256(content).hexdigest()}$"):
        get("/a.png", "0" * 64)


@pytest.mark.parametrize("url", ["ftp://example.org/a.png", "/a.png", "http://[::1/a.png", "file:///a", "http://"])
def test_other_addresses_than_http_and_https_are_refused(get, url):
    with pytest.raises(Failed, match=r"^no http or https address$"):
        get(f"data:{url}" if url.startswith("/") else url)


def test_private_addresses_are_refused_by_default_before_a_request_is_sent(web, get):
    web.picture("/a.png")
    port = web.url.rpartition(":")[2]
    for url in (web.url + "/a.png", f"http://localhost:{port}/a.png", f"http://[::ffff:127.0.0.1]:{port}/a.png"):
        with pytest.raises(Failed, match=r"^private address$"):
            get(url, private=False)
    assert not web.asked


def test_a_redirect_to_a_private_address_is_refused(web, get, monkeypatch):
    """The server counts as public here; only the address of the redirect's target is private."""
    port = int(web.url.rpartition(":")[2])
    web.picture("/a.png")
    web.answers["/out"] = redirect(f"http://127.0.0.2:{port}/a.png")
    monkeypatch.setattr("glassworks.data.fetching.http_session.is_private", lambda address: address != "127.0.0.1")
    assert get("/a.png", private=False)
    with pytest.raises(Failed, match=r"^private address$"):
        get("/out", private=False)
    assert web.asked["/a.png"] == 1


def test_a_private_address_inside_an_ipv6_address_is_private():
    assert all(map(is_private, ("64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::ffff:10.0.0.1", "fe80::1%eth0")))
    assert not any(map(is_private, ("64:ff9b::808:808", "2002:808:808::", "2606:4700::1111")))


def test_robots_txt_is_read_once_and_respected_on_every_hop(web):
    web.answers["/robots.txt"] = send(b"User-agent: *\nDisallow: /private/\nDisallow: /*.gif$", kind="text/plain")
    web.picture("/a.png")
    web.picture("/private/a.png")
    web.answers["/out"] = redirect("/private/a.png")
    images = WebImages(Downloads(**QUICK), 100_000, allow_private=True)
    assert images.get(Wanted(f"{web.url}/a.png"))
    for path in ("/private/a.png", "/out", "/b.gif"):
        with pytest.raises(Failed, match=r"^opt-out: robots.txt disallows it$"):
            images.get(Wanted(web.url + path))
    assert web.asked == {"/robots.txt": 1, "/a.png": 1, "/out": 1}
    ignoring = WebImages(Downloads(**QUICK), 100_000, allow_private=True, robots=False)
    assert ignoring.get(Wanted(f"{web.url}/private/a.png"))


ROBOTS = """
User-agent: other
User-agent: Glassworks/2
Disallow: /a
Allow: /a/b$
Allow: /*/ok

User-agent: *
Disallow: /

user-agent: glassworks # again
disallow: /caf%C3%A9
disallow:
"""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", True),
        ("/a", False),
        ("/a/b", True),
        ("/a/b/", False),
        ("/a/x/ok", True),
        ("/b?a", True),
        ("/café", False),
        ("/caf%c3%a9/1.png", False),
    ],
)
def test_the_longest_rule_of_the_own_groups_decides(path, allowed):
    assert Robots(ROBOTS, "glassworks").allows(f"https://example.org{path}") is allowed
    assert not Robots(ROBOTS, "another").allows(f"https://example.org{path}")
    assert Robots("", "glassworks").allows(f"https://example.org{path}")


def test_a_hostile_robots_txt_takes_no_time():
    rules = Robots("User-agent: *\n" + "Disallow: /" + "*a" * 2000 + "b$\n", "glassworks")
    before = time.monotonic()
    assert rules.allows("https://example.org/" + "a" * 20_000)
    assert time.monotonic() - before < 1


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("noai", "noai"),
        ("NoFollow, NOIMAGEAI", "noimageai"),
        ("googlebot: noindex", None),
        ("glassworks: noindex", "noindex"),
        ("unavailable_after: 25 Jun 2027 15:00:00 PST, noindex", "noindex"),
        ("all", None),
    ],
)
def test_opt_outs_for_everyone_and_for_this_program_count(header, found):
    assert opt_out(["index", header], "glassworks") == found


def test_a_schedule_limits_each_host_and_lets_others_go_on():
    schedule = Schedule([("a", -1), ("a", 0), ("a", 1), ("b", 2)], per_host=1)
    name, opens = schedule.take()
    assert (name, opens.number) == ("a", -1)
    assert schedule.take()[1].number == 2  # `a` is not open yet
    schedule.finish("a", opens)
    first = schedule.take()[1]
    assert first.number == 0
    schedule.again("a", first, 0.05, whole_host=True)
    before = time.monotonic()
    second = schedule.take()[1]
    assert time.monotonic() - before >= 0.04  # the whole host waits
    schedule.finish("a", second)
    third = schedule.take()[1]
    assert {second.number, third.number} == {0, 1}
    assert {second.attempts, third.attempts} == {0, 1}
    schedule.finish("a", third)
    schedule.finish("b", opens._replace(number=2))
    assert schedule.take() is None


# The stage


@pytest.fixture
def fetch(web, project):
    """Writes a table of URLs and runs the stage `fetch`; returns its folder."""

    def run(paths, digests=None, source="pixmo_points", downloads=None, **settings):
        folder = project.root / "pixmo"
        folder.mkdir(exist_ok=True)
        table = pa.table(
            {
                "image_url": [path if ":" in path else web.url + path for path in paths],
                "image_sha256": digests or [None] * len(paths),
            },
            schema=pa.schema([("image_url", pa.string()), ("image_sha256", pa.string())]),
        )
        pq.write_table(table, folder / "train-00000-of-00001.parquet")
        dataset = {"source": source, "path": "pixmo", "private_addresses": True, **settings}
        dataset["downloads"] = {**QUICK, **(downloads or {})}
        project.configure({"datasets": {"points": dataset}})
        return project.run("fetch-points")

    return run


def listed(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def manifest(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_images_are_in_tars_in_the_order_of_the_tables_and_failures_are_listed(web, fetch, monkeypatch):
    monkeypatch.setattr(image_urls, "PART", 2)
    contents = {f"/{n}.png": web.picture(f"/{n}.png", n, delay=0.05 * (n == 0)) for n in range(4)}
    web.answers["/busy.png"] = send(b"", status=503)
    paths = ["/3.png", "/gone.png", "/0.png", "/3.png", "/busy.png", "/1.png", "ftp://x/a", "/2.png"]
    wrong = ["0" * 64 if path == "/2.png" else hashlib.sha256(contents.get(path, b"")).hexdigest() for path in paths]
    folder = fetch(paths, wrong, downloads={"max_failures": 0.6})
    rows = pq.read_table(folder / "images.parquet").to_pylist()
    assert [(row["url"].removeprefix(web.url), row["tar"]) for row in rows] == [
        ("/3.png", "images-00000.tar"),
        ("/0.png", "images-00001.tar"),
        ("/1.png", "images-00002.tar"),
    ]
    for row in rows:
        body = (folder / row["tar"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        assert body == contents[row["url"].removeprefix(web.url)]
        assert hashlib.sha256(body).hexdigest() == row["sha256"]
    digest = hashlib.sha256(contents["/2.png"]).hexdigest()
    assert listed(folder) == [
        {"url": f"{web.url}/gone.png", "reason": "HTTP 404", "attempts": 1},
        {"url": f"{web.url}/busy.png", "reason": "HTTP 503", "attempts": 2},
        {"url": "ftp://x/a", "reason": "no http or https address", "attempts": 0},
        {"url": f"{web.url}/2.png", "reason": f"another sha256 than published: {digest}", "attempts": 1},
    ]
    assert manifest(folder)["counts"]["images"] == 3
    assert web.asked["/3.png"] == 1 and web.asked["/robots.txt"] == 1


def test_a_busy_host_is_asked_again_after_the_time_it_names(web, fetch):
    content = picture()
    answers = [send(b"", status=429, Retry_After="1"), send(content)]
    web.answers["/a.png"] = lambda handler: answers[min(web.asked["/a.png"], 2) - 1](handler)
    before = time.monotonic()
    fetch(["/a.png"])
    assert time.monotonic() - before >= 1
    assert web.asked["/a.png"] == 2


def test_a_longer_wait_than_the_limit_is_a_failure(web, fetch):
    web.picture("/b.png")
    web.answers["/a.png"] = send(b"", status=429, Retry_After="3600")
    folder = fetch(["/a.png", "/b.png"], downloads={"max_failures": 0.5, "longest_wait_seconds": 1})
    assert listed(folder) == [{"url": f"{web.url}/a.png", "reason": "HTTP 429", "attempts": 1}]


def test_images_of_a_host_whose_robots_txt_cannot_be_read_fail_without_being_asked_for(web, fetch, project):
    web.answers["/robots.txt"] = send(b"", status=500)
    with pytest.raises(FetchError, match=r"1 of 2 images failed \(robots.txt cannot be read 1\)"):
        fetch(["/a.png", "/b.png"], downloads={"max_failures": 0.4})
    assert web.asked == {"/robots.txt": 2}
    [file] = project.root.glob(".work/fetch-points-*/failures.jsonl")
    assert json.loads(file.read_text())["reason"] == "robots.txt cannot be read: HTTP 500"


def test_no_more_images_of_a_host_are_asked_for_together_than_allowed(web, fetch):
    paths = [f"/{n}.png" for n in range(12)]
    for n, path in enumerate(paths):
        web.picture(path, n, delay=0.03)
    fetch(paths, downloads={"per_host": 3, "connections": 12})
    assert web.most <= 3


def test_too_many_failures_are_one_line_and_what_arrived_is_kept(web, fetch, project):
    web.picture("/a.png", 1)
    with pytest.raises(FetchError) as caught:
        fetch(["/a.png", "/b.png", "/c.png"], downloads={"max_failures": 0.5})
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("points: 2 of 3 images failed (HTTP 404 2)")
    assert "datasets.points.downloads.max_failures allows (0.5)" in message
    [file] = project.root.glob(".work/fetch-points-*/failures.jsonl")
    assert str(file) in message and len(file.read_text().splitlines()) == 2
    web.picture("/c.png", 2)
    folder = fetch(["/a.png", "/b.png", "/c.png"], downloads={"max_failures": 0.4})  # a limit is no part of the key
    assert web.asked["/a.png"] == 1
    assert [row["url"] for row in listed(folder)] == [f"{web.url}/b.png"]


@pytest.mark.parametrize("moment", ["download", "pack"])
def test_an_interrupted_fetch_continues_to_the_same_bytes(web, fetch, project, monkeypatch, moment):
    monkeypatch.setattr(image_urls, "PART", 3)
    paths = [f"/{n}.png" for n in range(8)]
    for n, path in enumerate(paths[:-1]):
        web.picture(path, n)
    web.answers["/1.png"] = send(b"", status=404, delay=0.2)  # with several connections this failure is noted last
    downloads = {"max_failures": 0.5, "per_host": 8}
    expected = manifest(fetch(paths, downloads={**downloads, "connections": 8}))["files"]
    project.root.joinpath("data/raw/points/manifest.json").unlink()
    web.asked.clear()
    name = "write_bytes" if moment == "download" else "_write_part"
    real, calls = getattr(image_urls, name), []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(image_urls, name, killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(paths, downloads={**downloads, "connections": 1 if moment == "download" else 8})
    monkeypatch.setattr(image_urls, name, real)
    assert manifest(fetch(paths, downloads={**downloads, "connections": 2}))["files"] == expected
    again = {path: count for path, count in web.asked.items() if path != "/robots.txt"}
    assert sum(again.values()) <= len(paths) + 1  # at most the image that the kill hit is asked for twice
    assert not list(project.root.glob(".work/fetch-points*/images"))


def test_urls_with_two_digests_and_tables_without_urls_are_named(web, fetch):
    content = web.picture("/a.png")
    web.picture("/b.png", 1)
    digest = hashlib.sha256(content).hexdigest()
    folder = fetch(["/a.png", "/a.png", "/b.png"], [digest, "0" * 64, None], downloads={"max_failures": 0.5})
    assert listed(folder) == [{"url": f"{web.url}/a.png", "reason": image_urls.DIGESTS, "attempts": 0}]
    folder = fetch(["/a.png", "/a.png", "/b.png"], ["1" * 64, "0" * 64, None], check_digests=False)
    assert listed(folder) == []
    with pytest.raises(DataError, match="name no image in the column image_url"):
        fetch([])


def test_the_first_images_are_enough_to_try(web, fetch):
    for n in range(5):
        web.picture(f"/{n}.png", n)
    folder = fetch([f"/{n}.png" for n in range(5)], images=2)
    assert len(pq.read_table(folder / "images.parquet")) == 2
    assert web.asked["/2.png"] == 0
