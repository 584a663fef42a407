"""The page in Chromium: with the keyboard, with a microphone, narrow and dark. Nothing breaks its Content-Security-Policy."""

import io
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from .browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
PANEL = "document.querySelector('[data-kind={}]')"
DONE = PANEL + ".querySelector('.status').textContent === 'Done.'"


@pytest.fixture
def url(server):
    return server[1]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


def press(browser, key, code):
    for kind in ("rawKeyDown", "char", "keyUp"):
        text = {"text": "\r"} if kind == "char" and key == "Enter" else {}
        if kind != "char" or text:
            browser.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)


def test_a_conversation_by_the_keyboard_alone(browser, url):
    browser.open(url, 1100, 800)
    chat = PANEL.format("chat")
    browser.run(f"{chat}.querySelector('textarea').focus()")
    for turn, message in enumerate(("<b>word</b>", "more"), start=1):
        browser.call("Input.insertText", text=message)
        press(browser, "Enter", 13)
        browser.wait(f"{chat}.querySelectorAll('.turns li').length === {2 * turn} && {DONE.format('chat')}")
    turns = browser.run(f"[...{chat}.querySelectorAll('.turns .answer')].map(one => one.textContent)")
    assert turns[0] == "<b>word</b>" and turns[2] == "more" and turns[1]
    assert not browser.run(f"{chat}.querySelectorAll('.turns b').length"), "text is never HTML"
    assert browser.run("document.activeElement.name") == "text", "the next message can be written"
    assert browser.messages == []


def test_an_image_is_chosen_captioned_and_its_words_show_maps(browser, url, root):
    browser.open(url, 1100, 800)
    panel = PANEL.format("caption")
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    found = browser.call("DOM.querySelector", nodeId=document, selector="[data-kind=caption] input[type=file]")
    browser.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(root / "red.png")])
    assert browser.run(f"{panel}.querySelector('.preview img').src.startsWith('blob:')")
    browser.run(f"{panel}.querySelector('.primary').click()")
    browser.wait(DONE.format("caption"))
    browser.wait(f"{panel}.querySelector('.drawn').naturalWidth === 480")
    assert browser.run(f"{panel}.querySelector('.words button').getAttribute('aria-pressed')") == "true"
    browser.run(f"{panel}.querySelector('.clear').click(); {panel}.querySelector('.primary').click()")
    browser.wait(f"{panel}.querySelector('.error')?.textContent === 'choose an image'")
    assert browser.messages == []


def test_a_recording_of_the_microphone_searches(browser, url):
    """Chromium plays a beep into a microphone of its own."""
    browser.open(url, 1100, 800)
    panel = PANEL.format("retrieve")
    browser.run(f"{panel}.querySelector('.record').click()")
    browser.wait(f"{panel}.querySelector('.record').textContent === 'Stop recording'")
    browser.run(f"new Promise(done => setTimeout(done, 300)).then(() => {panel}.querySelector('.record').click())")
    browser.wait(f"{panel}.querySelector('.status').textContent === 'The recording is ready to send.'")
    browser.run(f"{panel}.querySelector('.primary').click()")
    browser.wait(DONE.format("retrieve"))
    counts = browser.run(f"[...{panel}.querySelectorAll('.gallery')].map(one => one.querySelectorAll('audio').length)")
    assert counts == [4, 4, 4]
    browser.wait(f"[...{panel}.querySelectorAll('.gallery img')].every(one => one.naturalWidth > 0)")
    browser.run(f"{panel}.querySelector('.gallery audio').load()")
    browser.wait(f"{panel}.querySelector('.gallery audio').duration > 0.1")
    assert browser.messages == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1200, 900), (360, 740)])
def test_the_page_fits_its_window_in_light_and_dark(browser, url, width, height, dark):
    browser.open(url, width, height, dark)
    assert browser.run("document.documentElement.scrollWidth") == width
    outside = "[...document.querySelectorAll('.card *')].filter(one => one.getBoundingClientRect().right > innerWidth)"
    assert browser.run(f"{outside}.length") == 0
    pixels = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("L"))
    assert pixels.shape[1] == width and (np.median(pixels) < 60) == dark and pixels.std() > 5
    assert browser.messages == []


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_serious_fault(browser, url, root, dark):
    """axe-core's rules on the page with the answers of a conversation and a caption on it."""
    browser.open(url, 1100, 800, dark)
    browser.run(f"{PANEL.format('chat')}.querySelector('textarea').value = 'word'")
    browser.run(f"{PANEL.format('chat')}.querySelector('.primary').click()")
    browser.wait(DONE.format("chat"))
    browser.run(files("axe_core_python").joinpath("axe.min.js").read_text() + ";0")
    faults = "axe.run().then(found => found.violations.map(one => [one.impact, one.id, one.nodes[0].html]))"
    found = browser.run(faults)
    assert [fault for fault in found if fault[0] in ("serious", "critical")] == []
    assert browser.run("axe.run().then(found => found.passes.length)") > 20
