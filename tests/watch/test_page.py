"""The page and the view in the terminal over a project with a killed training: in Chromium, in processes of their own, and for hostile requests."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from importlib.resources import files

import pytest
from rich.console import Console
from starlette.testclient import TestClient

from glassworks.errors import ConfigError
from glassworks.watch.observer import Observer
from glassworks.watch.server import application
from glassworks.watch.terminal import sparkline, view
from glassworks.web.guard import loopback_hosts

from ..demo.browser import CHROMIUM, Browser
from .conftest import ENTRY, TRAIN
from .test_observer import tree

HOSTILE = "<img src=x onerror=alert(1)> error"
PORT = 8000


@pytest.fixture(scope="module")
def root(killed, tmp_path_factory):
    """A copy of the project, with a line in the log of its training that looks like HTML."""
    root = tmp_path_factory.mktemp("page") / "project"
    shutil.copytree(killed[0].root, root, symlinks=True)
    with (root / f"logs/{TRAIN}.log").open("a") as file:
        file.write(f"{HOSTILE}\n")
    return root


@pytest.fixture(scope="module")
def served(root):
    """The process of a server over the project, and its address."""
    command = [sys.executable, "-c", ENTRY, "watch", "--port", "0"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watch = threading.Timer(60, process.kill)
        watch.start()
        url = process.stdout.readline().strip().rstrip("/")
        watch.cancel()
        assert url, process.stderr.read()
        yield process, url
        process.kill()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


def client_of(root, token=None, host="127.0.0.1"):
    app = application(Observer(root), loopback_hosts("127.0.0.1", PORT), token, PORT)
    return TestClient(app, base_url=f"http://{host}:{PORT}", follow_redirects=False)


def test_the_state_is_json_and_looking_writes_nothing(root):
    before, client = tree(root), client_of(root)
    state = client.get("/state").json()
    [stage] = [one for one in state["stages"] if one["name"] == TRAIN]
    assert state["counts"]["killed"] == 1 and (stage["state"], stage["why"]) == (
        "killed",
        "its process is gone; the same command continues it",
    )
    details = client.get(f"/stages/{TRAIN}").json()
    assert details["log"][0]["lines"][-1] == HOSTILE and details["training"] and details["ended_at"]
    assert client.get("/stages/train-none").status_code == client.get("/static/none").status_code == 404
    assert client.get("/stages/..%2F..%2Fparams.yaml").status_code == 404
    assert tree(root) == before


def test_other_sites_and_other_machines_are_refused(root):
    client = client_of(root)
    assert client.get("/state", headers={"Host": "evil.example:8000"}).status_code == 421
    guarded = client_of(root, "secret")
    assert guarded.get("/state").status_code == guarded.get(f"/stages/{TRAIN}").status_code == 401
    assert guarded.get("/?token=secret").status_code == 303 and guarded.get("/state").status_code == 200


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_a_killed_training_is_shown_and_a_stage_is_chosen_by_the_keyboard(browser, served):
    browser.open(served[1], 1200, 900)
    browser.wait("!!document.querySelector('.card.is-killed svg')")
    assert browser.run("document.querySelector('.card h3').textContent") == TRAIN
    label = browser.run("document.querySelector('.card svg').getAttribute('aria-label')")
    assert re.match(rf"Loss of {TRAIN}: [\d.]+ at step \d+; validation [\d.]+ at step \d+; ended at step \d+\.$", label)
    assert HOSTILE in browser.run("document.querySelector('.card pre').textContent")
    assert browser.run("document.querySelectorAll('main img').length") == 0, "a log is never HTML"
    assert browser.run("document.querySelectorAll('#graph path').length") > 8
    names = browser.run("[...document.querySelectorAll('.node')].map(one => one.innerText.replace(/\\s+/g, ' '))")
    assert any("words" in name and "shards, done" in name for name in names), names
    browser.run("[...document.querySelectorAll('.node')].find(one => one.innerText.includes('tokenizer')).focus()")
    for kind in ("rawKeyDown", "char", "keyUp"):
        text = {"text": "\r"} if kind == "char" else {}
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, **text)
    browser.wait("document.querySelector('#stage').textContent === 'tokenizer-lm_words'")
    assert browser.run("document.activeElement.id") == "details"
    browser.wait("!!document.querySelector('#chosen .facts')")
    assert "Took" in browser.run("document.querySelector('#chosen .facts').textContent")
    assert browser.run("document.querySelectorAll('.near').length") >= 2
    assert browser.messages == []


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
@pytest.mark.parametrize("width", [320, 1600])
def test_the_page_fits_a_phone_and_a_wide_window_in_the_dark(browser, served, width):
    browser.open(served[1], width, 700, dark=True)
    browser.wait("!!document.querySelector('.card svg')")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 24)"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_serious_fault(browser, served, dark):
    """axe-core's rules on the page with a killed training and a chosen stage."""
    browser.open(served[1], 1100, 800, dark)
    browser.wait("!!document.querySelector('.card svg')")
    browser.run("choose('tokenizer-lm_words')")
    browser.wait("!!document.querySelector('#chosen .facts')")
    browser.run(files("axe_core_python").joinpath("axe.min.js").read_text() + ";0")
    faults = "axe.run().then(found => found.violations.map(one => [one.impact, one.id, one.nodes[0].html]))"
    assert [fault for fault in browser.run(faults) if fault[0] in ("serious", "critical")] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_the_page_says_that_the_server_is_gone_and_goes_on_asking(browser, root, served):
    browser.open(served[1], 900, 700)
    browser.wait("!!document.querySelector('.card svg')")
    served[0].send_signal(signal.SIGINT)
    served[0].wait()
    assert served[0].returncode == 130
    browser.wait("!document.querySelector('#message').hidden")
    assert (
        browser.run("document.querySelector('#message').textContent")
        == "The server does not answer. The page goes on asking."
    )


def test_the_terminal_shows_the_same_without_the_extra(root):
    script = f"import atexit, sys\natexit.register(lambda: print({{'torch', 'starlette', 'uvicorn'}} & set(sys.modules)))\n{ENTRY}"
    command = [sys.executable, "-c", script, "watch", "--terminal"]
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("project: 1 killed, ") and f"✕ {TRAIN}  killed" in shown and shown.endswith("set()\n")
    assert re.search(r"[▁-█]+  loss [\d.]+ to [\d.]+, steps 1 to \d+", shown)


def test_markup_in_a_log_is_text_in_the_terminal(root):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with (root / f"logs/{TRAIN}.log").open("a") as file:
        file.write("[red]not red[/red] \x1b[31m\n")
    console.print(view(Observer(root)))
    console.file.close()
    text = console.export_text()
    assert "[red]not red[/red]" in text and "\x1b" not in text


def test_a_sparkline_falls_with_the_loss():
    assert sparkline([4.0, 3.0, 2.0]) == "█▅▁" and sparkline([1.0, 1.0]) == "▁▁"
    assert len(sparkline(range(1000))) == 40


def test_a_folder_without_a_project_is_one_line(tmp_path):
    with pytest.raises(ConfigError) as error:
        Observer(tmp_path)
    assert "params.yaml" in str(error.value) and "\n" not in str(error.value)


def test_json_has_no_number_that_is_none(root):
    with (root / f"logs/{TRAIN}.log").open("a") as file:
        file.write(f"{TRAIN}  900/2,400  loss nan  1 samples/s  0.9 GB  1.0 steps/s  3s left\n")
    found = client_of(root).get(f"/stages/{TRAIN}").text
    assert json.loads(found) and "NaN" not in found
