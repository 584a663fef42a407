"""`glassworks ask --chat` talks about one image, turn by turn, and says in one line what is wrong."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from glassworks.artifacts.digests import digest_json, write_json
from glassworks.artifacts.manifest import MANIFEST
from glassworks.config.packing import IMAGE_START
from glassworks.encoders.timm_image.settings import TimmImage
from glassworks.generation.settings import Decoding
from glassworks.inference.ask import Answerer, ImageConversation
from glassworks.inference.chat import talk
from glassworks.models.settings.connector import Connector
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.settings.vision_language import VisionLanguage
from glassworks.models.vision_language import VisionLanguageModel

from ..tiny_towers import image_tower
from .conftest import saved
from .test_chat import Terminal, rows

LIMIT = ("--max-new-tokens", 6)


@pytest.fixture
def seer(tmp_path, tokenizer, monkeypatch):
    """models/seer, a vision-language model with its tower, and two images, in a project that is the current folder."""
    monkeypatch.chdir(tmp_path)
    return write_seer(tokenizer)


def write_seer(tokenizer):
    weights = image_tower(Path("data/weights/cnn"))
    write_json(weights / MANIFEST, {"schema": 1, "counts": {}, "files": {}})
    settings = TimmImage(weights="cnn", image_size=40, layer=-2, batch_size=2, pooling="none")
    tower = {"encoder": "eye", "width": 48, "tokens": 9, "weights": digest_json({})}
    tower["settings"] = settings.model_dump(mode="json", exclude={"jobs", "weights"})
    torch.manual_seed(3)
    decoder = TextDecoder(width=16, depth=2, heads=2, max_tokens=64, position="rotary", tied=False)
    model = VisionLanguageModel(VisionLanguage(grid=3, connector=Connector(heads=2), decoder=decoder), 259, tower)
    for name, colour in (("red", (220, 30, 30)), ("noise", None)):
        image = Image.effect_noise((40, 40), 90) if colour is None else Image.new("RGB", (40, 40), colour)
        image.save(f"{name}.png")
    return saved(model, tokenizer, "seer")


def test_the_first_turn_is_the_answer_to_a_question_alone(seer, ask):
    """Token for token what `ask` answers; with another image, another answer."""
    found = {}
    for name in ("red", "noise"):
        code, shown, _ = ask("ask", seer, f"{name}.png", "--chat", "--message", "what?", *LIMIT)
        assert code == 0 and shown == ask("ask", seer, f"{name}.png", "what?", *LIMIT)[1]
        found[name] = shown
    assert found["red"] != found["noise"]


def test_turns_follow_the_earlier_ones_and_are_lines_of_json(seer, ask):
    code, shown, _ = ask("ask", seer, "red.png", "--chat", "--message", "what?", "--message", "who?", *LIMIT, "--json")
    first, second = rows(shown)
    assert code == 0 and first["file"] == second["file"] == "red.png"
    assert first["messages"] == [{"role": "user", "content": "what?"}], "without the image"
    assert second["messages"] == [
        *first["messages"],
        {"role": "assistant", "content": first["text"]},
        {"role": "user", "content": "who?"},
    ]
    assert first["tokens"] == 6 and first["ended"] == "length" and first["seconds"] >= 0
    alone = rows(ask("ask", seer, "red.png", "--chat", "--message", "who?", *LIMIT, "--json")[1])[0]
    assert alone["text"] != second["text"], "the second turn reads the first"


def test_lines_of_standard_input_are_turns_and_reset_keeps_the_image(seer, ask, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("what?\n\n/reset\nwhat?\nwho?\n/exit\nwho?\n"))
    first, again, third = rows(ask("ask", seer, "red.png", "--chat", *LIMIT, "--json")[1])
    assert first["text"] == again["text"] and len(again["messages"]) == 1 and len(third["messages"]) == 3


def test_answers_are_shown_token_by_token_in_a_terminal(seer, tmp_path, monkeypatch):
    conversation = ImageConversation(seer, [Path("red.png")], Decoding(max_new_tokens=6), tmp_path)
    terminal = Terminal(monkeypatch, "what?", "a" * 60, "/reset", "who?", "/exit", "never read")
    talk(conversation, terminal.shown.append, terminal.notes.append)
    notes = "".join(terminal.notes)
    assert terminal.shown.count("\n") == 2 and len(terminal.shown) >= 2 * 7 + 2, "six pieces, their end and a new line"
    assert "a context of 64 tokens" in notes
    assert "tokens and the model a context of 64; begin a new one (/reset)" in notes
    assert [message.role for message in conversation.messages] == ["user", "user", "assistant"], "image, turn, answer"
    assert conversation.reply.messages == [{"role": "user", "content": "who?"}]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["red.png", "noise.png", "a", "--together", "--draw", "a.png"], 2, "--draw: 2 images would be drawn into one file; ask about one image"),
        (["red.png", "--chat", "--message", "a", "--draw", "a.png"], 2, "--draw: draws the points of one answer; leave out --chat"),
        (["red.png", "what?", "--message", "a"], 2, "--message: is a turn of a conversation; add --chat, or give the question after the images"),
        (["red.png"], 2, "give an image and a question about it"),
        (["--chat"], 2, "give an image"),
        (["red.png", "--chat", "--message", "a" * 99], 3, "tokens and the model a context of 64; shorten the message"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_clear_line(seer, ask, arguments, code, message):
    found, shown, error = ask("ask", seer, *arguments)
    assert found == code and shown == ""
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_question_about_several_images_is_asked_of_each(seer, ask):
    found = rows(ask("ask", seer, "red.png", "noise.png", "what?", *LIMIT, "--json")[1])
    assert [row["file"] for row in found] == ["red.png", "noise.png"]
    for row in found:
        alone = json.loads(ask("ask", seer, row["file"], "what?", *LIMIT, "--json")[1])
        assert alone == row


def test_a_question_about_images_together_is_one_prompt_with_all_of_them_in_order(seer, ask, tmp_path):
    """Of one file it is the question about that file."""
    alone = ask("ask", seer, "red.png", "what?", *LIMIT)[1]
    assert ask("ask", seer, "red.png", "what?", "--together", *LIMIT)[1] == alone
    names = ("red.png", "noise.png")
    shown = ask("ask", seer, *names, "what?", "--together", *LIMIT)[1]
    [row] = rows(ask("ask", seer, *names, "what?", "--together", "--json", *LIMIT)[1])
    assert row == {"files": [*names], "question": "what?", "answer": shown.removesuffix("\n")}
    turn = rows(ask("ask", seer, *names, "--chat", "--message", "what?", "--json", *LIMIT)[1])[0]
    assert turn["text"] == row["answer"] and turn["file"] == "red.png noise.png"
    answerer, logits = Answerer(seer, tmp_path), []
    for order in (names, names[::-1], names[:1]):
        sample = answerer.of_files([Path(name) for name in order])
        prompt = answerer.prompt("what?", sample)
        assert prompt.count(IMAGE_START) == len(order)
        ids = torch.tensor([prompt])
        logits.append(answerer.model(ids, torch.zeros_like(ids), **answerer.features([sample]))[0, -1])
    assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])
