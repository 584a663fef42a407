"""Each panel gives the answer of its command, from a form of a browser."""

import base64
import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from glassworks.artifacts.digests import write_json
from glassworks.demo import examples
from glassworks.demo.panels import open_panels
from glassworks.errors import ArtifactError
from glassworks.generation.settings import Decoding
from glassworks.inference.chat import Conversation

from ..data.small_shards import picture
from ..inference.test_retrieve import TEXTS, tone
from .conftest import KINDS, client_of, send, text_of


def sound(number, rate=16_000, form="WAV"):
    file = io.BytesIO()
    soundfile.write(file, tone(number, rate=rate), rate, format=form)
    return file.getvalue()


def decoded(uri):
    head, _, content = uri.partition(",")
    assert head.startswith("data:image/") and head.endswith(";base64")
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.fixture
def command(root, ask, monkeypatch):
    """The output of a command in the project."""
    monkeypatch.chdir(root)

    def run(*arguments):
        code, shown, error = ask(*arguments)
        assert code == 0, error
        return shown

    return run


def test_the_page_has_the_panels_of_the_named_models_alone(client, panels):
    page = client.get("/").text
    assert [panel.kind for panel in panels] == list(KINDS)
    assert [kind for kind in KINDS if f'data-kind="{kind}"' in page] == list(KINDS)
    assert "http" not in page and "<style" not in page and " style=" not in page and " on" + "click" not in page
    alone = client_of(panels[:1]).get("/").text
    assert alone.count("<section") == 1 and 'data-kind="caption"' in alone and "<nav" not in alone


def test_every_control_has_a_label(client):
    import re

    page = client.get("/").text
    for control in re.findall(r"<(?:input|textarea|select)\b[^>]*>", page):
        named = re.search(r' id="([^"]+)"', control)
        inside = f"<label>[^<]*{re.escape(control)}"
        assert (named and f'for="{named[1]}"' in page) or re.search(inside, page), control
    assert all(re.search(r'type="(button|submit)"', button) for button in re.findall(r"<button\b[^>]*>", page))


def test_a_caption_is_that_of_the_command_with_a_map_for_each_word(client, command, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(2))
    expected = json.loads(command("caption", "models/describer", tmp_path / "a.png", "--json"))["caption"]
    events = send(client, "caption", picture(2), name="a.png")
    assert text_of(events) == expected.strip()
    maps, plain = events[-1]["maps"], decoded(events[-1]["picture"])
    assert maps and plain.size == (480, 480)
    shown = [np.asarray(decoded(one["picture"])) for one in maps]
    assert (shown[0].shape == (480, 480, 3) and len({one.tobytes() for one in shown}) > 1) or len(shown) == 1


def test_an_answer_about_an_image_is_that_of_the_command_in_pieces(client, command, root):
    expected = command("ask", "models/seer", "red.png", "what?", "--max-new-tokens", 200)
    events = send(client, "ask", (root / "red.png").read_bytes(), question="what?")
    assert text_of(events) + "\n" == expected and len(events) > 5
    other = send(client, "ask", (root / "noise.png").read_bytes(), question="what?")
    assert text_of(other) != text_of(events)


def test_points_of_an_answer_are_drawn(panels, client, root, monkeypatch):
    answerer = panels[KINDS.index("ask")].answerer
    decoder, text = answerer.model.decoder, "(25, 50)"
    ids = iter([*answerer.tokenizer.encode(text, 99)[1:-1], answerer.tokenizer.eos])
    plain = type(decoder).logits

    def forced(hidden):
        logits = plain(decoder, hidden)
        logits[..., next(ids)] = 1e4
        return logits

    monkeypatch.setattr(decoder, "logits", forced, raising=False)
    *pieces, last = send(client, "ask", (root / "red.png").read_bytes(), question="where?")
    assert text_of(pieces) == text and last["points"] == [[25, 50]]
    drawn = decoded(last["picture"]).convert("RGB")
    assert drawn.size == (480, 480) and drawn.getpixel((120, 240)) == (230, 0, 120)
    assert drawn.getpixel((360, 100)) == (220, 30, 30)


@pytest.mark.parametrize(
    ("file", "texts", "modality"),
    [(None, {"text": TEXTS[3]}, "text"), (picture(3), {}, "image"), (sound(3), {"text": "red"}, "speech")],
)
def test_a_search_finds_the_sample_itself_first_with_what_plays(client, file, texts, modality):
    *notes, last = send(client, "retrieve", file, **texts)
    groups = {group["word"]: group["cards"] for group in last["groups"]}
    first = groups[modality][0]
    assert (first["key"], first["texts"]) == ("k3", [TEXTS[3]]) and first["similarity"] == pytest.approx(1, abs=1e-3)
    assert decoded(first["picture"]).size and first["sound"].startswith("data:audio/flac;base64,")
    assert [len(cards) for cards in groups.values()] == [4, 4, 4]
    assert [note["note"] for note in notes] == (
        ["the search is by the file; clear it to search by the text"] if file and texts else []
    )


def test_a_transcription_is_that_of_the_command(client, command, tmp_path):
    (tmp_path / "a.wav").write_bytes(sound(1, 8_000))
    expected = json.loads(command("transcribe", "models/hearer", tmp_path / "a.wav", "--json"))["text"]
    note, *events = send(client, "transcribe", sound(1, 8_000))
    assert note == {"note": "the file: 8,000 Hz, mono, is resampled to 16,000 Hz, mono"}
    assert text_of(events) == expected.strip()


def test_turns_follow_the_earlier_ones_that_the_page_sends(client, root):
    conversation = Conversation(root / "data/weights/base", Decoding(max_new_tokens=9), None, root)
    turns = []
    for message in ("word", "more"):
        expected = "".join(conversation.answer(message))
        events = send(client, "chat", text=message, messages=json.dumps(turns), max_new_tokens="9")
        assert text_of(events) == expected and events[-1] == {"note": "cut after 9 tokens"}
        turns += [{"role": "user", "content": message}, {"role": "assistant", "content": expected}]
    alone = send(client, "chat", text="more", max_new_tokens="9")
    assert text_of(alone) != expected, "no turn stays on the server"


def test_a_text_is_that_of_the_command_for_the_same_seed(client, command):
    options = ("--temperature", 0.8, "--max-new-tokens", 12, "--json")
    expected = [
        json.loads(command("generate", "data/weights/base", "in the", *options, "--seed", seed))["text"]
        for seed in (0, 5)
    ]
    found = [text_of(send(client, "generate", text="in the", max_new_tokens="12", seed=seed)) for seed in ("0", "5")]
    assert found == expected and found[0] != found[1]


@pytest.mark.parametrize(
    ("kind", "texts", "line"),
    [
        ("caption", {}, "choose an image"),
        ("caption", {"example": "99"}, "choose an image"),
        ("caption", {"example": "-1"}, "choose an image"),
        ("ask", {}, "write a question"),
        ("ask", {"question": "what?"}, "choose an image"),
        ("retrieve", {}, "write a text to search with"),
        ("retrieve", {"text": "a", "dataset": "../secrets"}, "no index of this data set; there are things"),
        ("transcribe", {}, "choose a sound"),
        ("chat", {"text": " \n"}, "write a message"),
        ("chat", {"text": "a", "messages": "[{"}, "the earlier turns are not JSON"),
        ("chat", {"text": "a", "messages": "[" * 100_000}, "the earlier turns are not JSON"),
        ("chat", {"text": "a", "messages": '{"role": 1}'}, "the earlier turns: "),
        ("chat", {"text": "word " * 3000}, "the model a context of 256; shorten the message"),
        ("chat", {"text": "a" * 20_001}, "the text has 20,001 characters; at most 20,000 are read"),
        ("chat", {"text": "a", "temperature": "warm"}, "temperature: 'warm' is no number"),
        ("chat", {"text": "a", "temperature": "nan"}, "--temperature nan: "),
        ("chat", {"text": "a", "max_new_tokens": "0"}, "--max-new-tokens 0: "),
        ("generate", {"text": "a", "seed": "-1"}, "--seed -1: "),
        ("generate", {"text": "a" * 900}, "leave no room in the model's context of 256; shorten it"),
    ],
)
def test_what_cannot_be_answered_is_one_line(client, kind, texts, line):
    *_, last = send(client, kind, **texts)
    assert line in last["error"] and "\n" not in last["error"]


def test_examples_are_of_the_held_out_split_and_can_be_sent(client, panels):
    retrieve = panels[KINDS.index("retrieve")]
    assert {example.label for example in retrieve.examples} <= set(TEXTS[4:])
    number = next(place for place, example in enumerate(retrieve.examples) if example.sound)
    groups = send(client, "retrieve", example=str(number))[-1]["groups"]
    [speech] = [group["cards"] for group in groups if group["word"] == "speech"]
    assert speech[0]["texts"] == [retrieve.examples[number].label]
    assert retrieve.examples[number].sound in client.get("/").text


def test_examples_of_a_model_are_of_a_data_set_of_its_mixture(root):
    folder = root / "models/mixed"
    folder.mkdir()
    write_json(
        folder / "recipe.json", {"params": {"data": {"train": [{"group": [{"dataset": "no"}, {"dataset": "things"}]}]}}}
    )
    samples = examples.samples_of(folder)
    assert [sample.key for sample in samples] == ["k4", "k5"], "the test split"
    [shown] = examples.media_examples(samples, ("image",))
    assert shown.label == TEXTS[4] and shown.content == picture(4) and shown.picture.startswith("data:image/png")
    assert [example.texts["text"] for example in examples.beginnings(samples)] == TEXTS[4:]
    assert examples.samples_of(root / "models/describer") == []


def test_a_model_that_no_panel_shows_is_one_line(root, monkeypatch):
    with pytest.raises(ArtifactError, match=r"^models/hearers: no such model folder; did you mean models/hearer\?$"):
        monkeypatch.chdir(root)
        open_panels((root / "models/hearers").relative_to(root), root)
    with pytest.raises(ArtifactError, match=r"no index; make one with `glassworks index .*models/silent DATASET`$"):
        open_panels(root / "models/silent", root)
    folder = root / "models/foreign"
    folder.mkdir()
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "smollm2"})
    with pytest.raises(ArtifactError, match=r"an adapter that peft wrote; merge it with `glassworks export .* --base"):
        open_panels(folder, root)
