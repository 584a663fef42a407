"""`glassworks caption` says what is in images, draws where it looked, and says in one line what is wrong."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from glassworks.data.reading.text import TextTokenizer
from glassworks.inference.attention_maps import token_attention, word_attention
from glassworks.models.captioner import Captioner


@pytest.fixture
def images(describer, write_image, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        write_image(tmp_path / f"pictures/{number}.png", seed=number)
    return "pictures"


def test_a_line_for_each_image_of_a_folder(describer, images, ask):
    code, shown, _ = ask("caption", describer, images)
    assert code == 0
    assert [line.split(": ")[0] for line in shown.strip().split("\n")] == [
        f"pictures/{number}.png" for number in range(3)
    ]


def test_a_caption_is_the_same_alone_and_beside_others(describer, images, ask):
    for settings in ((), ("--temperature", 1, "--seed", 4), ("--beams", 1)):
        together = ask("caption", describer, images, *settings, "--json")[1].strip().split("\n")
        alone = [ask("caption", describer, f"pictures/{n}.png", *settings, "--json")[1].strip() for n in range(3)]
        assert together == alone
        assert all(set(json.loads(line)) == {"file", "caption"} for line in alone)


def test_attention_is_drawn_for_every_image(describer, images, ask):
    code, _, error = ask("caption", describer, images, "pictures/0.png", "--attention", "maps")
    assert code == 0, error
    for number in range(3):
        with Image.open(f"maps/{number}.png") as figure:
            assert figure.width > 600 and figure.height > 200


def test_an_empty_caption_still_has_its_figure(describer, images, ask, monkeypatch):
    monkeypatch.setattr("glassworks.inference.caption.caption", lambda model, images, *_: [[] for _ in images])
    code, shown, error = ask("caption", describer, images, "--attention", "maps")
    assert code == 0, error
    assert shown.startswith("pictures/0.png: \n") and len(list(Path("maps").iterdir())) == 3


def test_the_attention_of_every_token_is_the_mean_over_heads_and_blocks_without_the_class_token(describer):
    model = Captioner.load(describer).eval()
    image = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    maps = token_attention(model, image, [1, 40, 50, 60])
    assert maps.shape == (3, 24, 24)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3))
    with torch.no_grad():  # the first block alone sees BOS only: its attention can be computed by hand
        block = model.decoder.blocks[0]
        x = model.decoder.tokens(torch.tensor([[1]])) + model.decoder.positions(torch.tensor([0]))
        x = x + block.attention(block.attention_norm(x))
        weights = block.cross_attention.weights(block.cross_norm(x), model.encode_memory(image)[0])[0].mean(0)[0, 1:]
    model.decoder.blocks = model.decoder.blocks[:1]
    first = token_attention(model, image, [1, 40])[0]
    centres = first[4::8, 4::8].flatten()
    assert weights.argmax() == centres.argmax()


def test_a_word_of_several_tokens_has_the_mean_of_theirs(describer):
    model, tokenizer = Captioner.load(describer).eval(), TextTokenizer(describer)
    ids = tokenizer.encode("a cat", 12)[1:-1]
    image = torch.randint(256, (3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    words = word_attention(model, image, ids, tokenizer)
    assert [word.text for word in words] == ["a", "cat"]
    maps = token_attention(model, image[None].float() / 127.5 - 1, [tokenizer.bos, *ids])
    torch.testing.assert_close(words[1].attention, maps[1:].mean(0))


@pytest.mark.parametrize(
    ("paths", "code", "message"),
    [
        (["notes.txt"], 3, "notes.txt: it is no JPEG, PNG"),
        (["none.png"], 3, "none.png: no such file"),
        (["empty"], 3, "empty: no images in this folder"),
        (["pictures/0.png", "--top-p", "0.5"], 2, "top_p limits random draws"),
    ],
)
def test_what_cannot_be_is_one_clear_line(describer, images, ask, tmp_path, paths, code, message):
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    found, _, error = ask("caption", describer, *paths)
    assert found == code and error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_language_model_is_told_apart(writer, ask, tmp_path, write_image):
    write_image(tmp_path / "a.png")
    code, _, error = ask("caption", writer, "a.png")
    assert code == 4 and "models/writer: this model writes text and sees no images" in error
