"""The command in a process of its own: many requests at once, hostile ones, Ctrl-C, and what it says about its address."""

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from glassworks.errors import ResourceError
from glassworks.web.address import listen

from ..data.small_shards import picture
from .conftest import ENTRY, parts, running
from .test_uploads import IMAGES, animation


def ask(url, panel, texts, file=None):
    """The status and the events of an answer."""
    found = httpx2.post(f"{url}/panels/{panel}", files=parts(texts, file), headers={"Origin": url}, timeout=60)
    return found.status_code, [json.loads(line) for line in found.text.splitlines()]


def memory(process):
    """The largest memory of a process so far, in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_fifty_requests_at_once_are_answered_one_after_another(server):
    _, url = server
    texts = {"text": "word", "max_new_tokens": "12"}
    alone = ask(url, 1, texts)[1][2:]
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda _: ask(url, 1, texts), range(50)))
    assert [status for status, _ in found] == [200] * 50
    waited = []
    for _, events in found:
        ahead = [event["ahead"] for event in events if "ahead" in event]
        assert ahead == sorted(ahead, reverse=True), "a request only moves forward"
        assert events[len(ahead) :] == [{"begun": True}, *alone], "an answer does not depend on the others"
        waited.append(ahead[0])
    assert max(waited) > 5, "some waited"


def test_hostile_uploads_take_bounded_memory_and_end_nothing(server):
    process, url = server
    ask(url, 0, {}, picture(1))
    before = memory(process)
    hostile = [IMAGES["bomb"][0], animation(2_000, 90), bytes(16 * 2**20), b"GIF89a" + bytes(2**20), picture(1)[:-30]]
    with ThreadPoolExecutor(10) as pool:
        for status, events in pool.map(lambda file: ask(url, 0, {}, file), hostile * 3):
            assert status == 200 and "error" in events[-1]
    assert memory(process) - before < 400, "15 uploads, of which three have 16 MiB and three would be 1.2 GB of pixels"
    assert "maps" in ask(url, 0, {}, picture(1))[1][-1] and process.poll() is None


def test_an_abandoned_request_makes_room_for_the_next(server):
    _, url = server
    long = {"text": "word", "max_new_tokens": "250"}
    with httpx2.stream("POST", f"{url}/panels/1", files=parts(long), headers={"Origin": url}) as response:
        lines = response.iter_lines()
        assert [json.loads(next(lines)) for _ in range(2)] == [{"ahead": 0}, {"begun": True}]
        pieces = [json.loads(next(lines)) for _ in range(3)]
        assert all("text" in piece for piece in pieces), "pieces arrive before the end"
    events = ask(url, 1, {"text": "a", "max_new_tokens": "2"})[1]
    assert "error" not in events[-1] and any("text" in event for event in events)


def test_a_foreign_host_and_origin_are_refused_by_the_process(server):
    _, url = server
    assert httpx2.get(url, headers={"Host": "evil.example"}).status_code == 421
    refused = httpx2.post(f"{url}/panels/1", files=parts({"text": "a"}), headers={"Origin": "http://evil.example"})
    assert refused.status_code == 403
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as raw:
        raw.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert httpx2.get(url).status_code == 200


def test_ctrl_c_ends_the_server_at_once_while_it_answers_and_a_token_guards_other_addresses(root):
    with running(root, "models/describer", "data/weights/base", "--host", "0.0.0.0") as (process, url):
        address, _, token = url.partition("/?token=")
        local = f"http://127.0.0.1:{address.rpartition(':')[2]}"
        assert len(token) == 32 and httpx2.get(local).status_code == 401
        fields = parts({"text": "word", "max_new_tokens": "250"})
        with httpx2.Client(base_url=local, headers={"Origin": local}, follow_redirects=True) as client:
            assert client.get(f"/?token={token}").status_code == 200
            with client.stream("POST", "/panels/1", files=fields) as response:
                lines = response.iter_lines()
                assert [next(lines) for _ in range(2)][-1] == '{"begun": true}'
                begun = time.monotonic()
                process.send_signal(signal.SIGINT)
                _, shown = process.communicate(timeout=30)
        assert process.returncode == 130 and time.monotonic() - begun < 20  # a busy machine is no failure
        notes, last = shown.splitlines()[:-1], shown.splitlines()[-1]
        assert [note.partition(" ")[0] for note in notes] == ["note:", "note:"] and token not in shown
        assert last == "interrupted; the same command continues where it can"


def test_help_imports_no_server_and_no_torch(tmp_path):
    found = "print(sorted({'torch', 'starlette', 'uvicorn'} & set(sys.modules)))"
    script = f"import atexit, sys\natexit.register(lambda: {found})\n{ENTRY}"
    command = [sys.executable, "-c", script, "demo", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "--max-megabytes" in shown and shown.splitlines()[-1] == "[]"


def test_a_port_in_use_is_one_line_before_any_model_is_read(root, tmp_path):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        line = f"^--port {port}: another program listens there; choose another port, or 0 for any free one$"
        with pytest.raises(ResourceError, match=line):
            listen("localhost", port)
    with pytest.raises(ResourceError, match=r"^--host 192\.0\.2\.1: not available on this machine"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["models/describe"], 4, "models/describe: no such model folder; did you mean models/describer?"),
        (["models/describer", "--host", "no host"], 2, "--host no host: no such host; 127.0.0.1 is this machine alone"),
    ],
)
def test_what_cannot_start_is_one_line(root, request, monkeypatch, arguments, code, message):
    monkeypatch.chdir(root)
    found, shown, error = request.getfixturevalue("ask")("demo", *arguments, "--port", 0)
    assert (found, shown, error) == (code, "", f"error: {message}\n")


def test_without_the_extra_is_one_line(root, request, monkeypatch):
    monkeypatch.chdir(root)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "glassworks.web.address.find_spec", lambda name: None if name == "python_multipart" else find(name)
    )
    found, shown, error = request.getfixturevalue("ask")("demo", "models/describer")
    line = "error: glassworks demo needs python-multipart; install the extra: pip install 'glassworks[demo]'\n"
    assert (found, shown, error) == (2, "", line)
