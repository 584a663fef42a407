"""A project with a small model for every panel, and the page as a client sees it."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch
from starlette.testclient import TestClient

from glassworks.artifacts.digests import digest_json
from glassworks.artifacts.manifest import MANIFEST, read_manifest
from glassworks.demo.panels import open_panels
from glassworks.demo.server import application
from glassworks.demo.uploads import MAX_BYTES
from glassworks.demo.worker import Worker
from glassworks.encoders.whisper.settings import Whisper
from glassworks.models.fused_decoder import FusedDecoder
from glassworks.models.settings.fusion import FusedDecoder as Fused
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.web.guard import loopback_hosts

from ..inference.conftest import ask, saved, write_bytes_tokenizer, write_describer
from ..inference.instructed import write_base
from ..inference.test_ask import write_seer
from ..inference.test_retrieve import write_indexed

__all__ = ["ask"]
MODELS = ("models/describer", "models/seer", "models/heads", "models/hearer", "data/weights/base")
KINDS = ("caption", "ask", "retrieve", "transcribe", "chat", "generate")
PORT = 8000
ENTRY = "import sys; sys.argv[0] = 'glassworks'; from glassworks.cli import main; main()"
BEGIN = 120
"""Seconds for the start, on a busy machine."""


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """The folder of the project."""
    root = tmp_path_factory.mktemp("demo")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    write_indexed(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        tokenizer = write_bytes_tokenizer(root / "tokenizer")
        write_describer(tokenizer)
        write_seer(tokenizer)
        (write_base(root / "data/weights/base") / MANIFEST).unlink()  # its digest is that of the tower of the seer
        ear = Whisper(weights="ear", seconds=1, batch_size=2, pooling="none").model_dump(
            mode="json", exclude={"jobs", "weights"}
        )
        weights = digest_json(read_manifest(root / "data/weights/ear").files)
        tower = {"encoder": "ear", "width": 32, "tokens": 50, "weights": weights, "settings": ear, "input": {}}
        torch.manual_seed(3)
        decoder = TextDecoder(width=16, depth=2, heads=2, max_tokens=80, position="rotary")
        saved(FusedDecoder(Fused(decoder=decoder, max_tokens=12), 259, {"audio": tower}), tokenizer, "hearer")
    torch.set_num_threads(threads)
    return root


@pytest.fixture(scope="session")
def panels(root):
    return [panel for name in MODELS for panel in open_panels(root / name, root)]


def client_of(panels, host="127.0.0.1", token=None, max_bytes=MAX_BYTES):
    """A client of the page on this host, which sends the headers of a browser."""
    app = application(panels, Worker(1), loopback_hosts("127.0.0.1", PORT), token, PORT, max_bytes)
    url = f"http://{host}:{PORT}"
    return TestClient(app, base_url=url, headers={"Origin": url}, follow_redirects=False)


@pytest.fixture
def client(panels):
    return client_of(panels)


def parts(texts, file=None, name="upload"):
    """The fields of a form, for httpx."""
    fields = {key: (None, text) for key, text in texts.items()}
    return {**fields, "file": (name, file)} if file is not None else fields or {"": (None, "")}


def send(client, kind, file=None, name="upload", **texts):
    """The events of an answer, without those of the queue."""
    response = client.post(f"/panels/{KINDS.index(kind)}", files=parts(texts, file, name))
    assert response.status_code == 200, response.text
    events = [json.loads(line) for line in response.text.splitlines()]
    assert events[0] == {"ahead": 0} and events[1] == {"begun": True}
    return events[2:]


def text_of(events):
    return "".join(event.get("text", "") for event in events)


@contextmanager
def running(root, *arguments):
    """The process of a server, and its address."""
    command = [sys.executable, "-c", ENTRY, "demo", "--port", "0", *arguments]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            watch = threading.Timer(BEGIN, process.kill)
            watch.start()
            url = process.stdout.readline().strip()
            watch.cancel()
            assert url, process.stderr.read()
            yield process, url.rstrip("/")
        finally:
            process.kill()


@pytest.fixture(scope="session")
def server(root):
    with running(root, "models/describer", "data/weights/base", "models/heads") as (process, url):
        yield process, url
