"""examples/nanomolmo2.py is one short file that trains, answers, and computes what our models compute."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from glassworks.config.packing import IMAGE_PATCH, Images, Packing
from glassworks.data.reading.image_rows import ImageRows
from glassworks.data.reading.images import normalise
from glassworks.data.reading.packing import arrange
from glassworks.data.reading.tokens import image_chat, prompt_of
from glassworks.encoders.clip_image.encoder import ClipImageEncoder
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.language_models import export_language_model
from glassworks.models.pretrained.vision import CLIP_MEAN, CLIP_STD, export_vision_transformer
from glassworks.models.settings.connector import Connector
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.settings.vision_language import VisionLanguage
from glassworks.models.settings.vision_transformer import VisionTransformer as VisionConfig
from glassworks.models.vision_transformer import VisionTransformer
from glassworks.tasks.vision_language.settings import VisionOptions
from glassworks.tasks.vision_language.task import VisionLanguageTask

from .tasks.test_packed_documents import Samples
from .tasks.test_vision_language import asked

FILE = Path(__file__).parents[1] / "examples/nanomolmo2.py"
SHAPE = {"image_size": 40, "patch_size": 8, "vision_width": 24, "vision_depth": 4, "vision_heads": 2, "vision_layers": [-1, -3]} | {
    "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "inner_width": 48, "max_tokens": 160,
}  # fmt: skip
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 70, 220)}


@pytest.fixture(scope="module")
def nano():
    spec = importlib.util.spec_from_file_location("nanomolmo2", FILE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


class Bytes:
    """The tokenizer of the file, as ours."""

    bos, eos, pad, size = 256, 257, 257, 258

    def encode_parts(self, texts):
        return [list(text.encode()) for text in texts]


class Pair:
    """A model of ours, and the file's with the same weights, which pass through the published layouts of CLIP and Qwen2."""

    def __init__(self, nano, folder):
        torch.manual_seed(0)
        config = self.config = nano.Config(**SHAPE)
        sizes = {"patch_bias": False, "class_token": True, "first_norm": True, "feed_forward": "quick_gelu"}
        sizes |= {"image_size": 40, "patch_size": 8, "width": 24, "depth": 5, "heads": 2}
        tower = VisionTransformer(VisionConfig(**sizes, mean=CLIP_MEAN, std=CLIP_STD))
        self.tower = ClipImageEncoder(tower, (-2, -4))
        text = TextDecoder(
            width=32, depth=2, heads=4, kv_heads=2, feed_forward_width=48, max_tokens=160, position="rotary", rope_theta=1e6,
            norm="rms", norm_eps=1e-6, feed_forward="swiglu", biases="qkv",
        )  # fmt: skip
        shape = VisionLanguage(grid=config.grid, connector=Connector(heads=2), decoder=text)
        packing = Packing(row_tokens=160, images=Images(tokens=shape.image_tokens))
        described = {"width": self.tower.width, "tokens": self.tower.tokens}
        self.task = VisionLanguageTask(shape, Bytes(), packing, described)
        self.ours = self.task.build().eval()
        for module in (tower, self.ours):
            for parameter in module.parameters():  # no bias is 0 and no norm 1
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
        language = LanguageModel(text, Bytes.size)
        language.decoder.load_state_dict(self.ours.decoder.state_dict())
        export_vision_transformer(tower, folder / "clip")
        export_language_model(language, folder / "qwen")
        self.file = nano.NanoMolmo2(config).eval()
        published = load_file(folder / "clip/model.safetensors")
        found = self.file.vision.load_state_dict(
            {name.removeprefix("vision_model."): tensor for name, tensor in published.items()}, strict=False
        )
        assert not found.missing_keys
        assert all(name.startswith(("encoder.layers.4.", "post_layernorm.")) for name in found.unexpected_keys)
        published = load_file(folder / "qwen/model.safetensors")
        self.file.language.load_state_dict({name.removeprefix("model."): one for name, one in published.items()})
        names = {"pooling.": "", "w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
        pattern = re.compile("|".join(map(re.escape, names)))
        connector = self.ours.connector.state_dict()
        self.file.connector.load_state_dict(
            {pattern.sub(lambda match: names[match[0]], name): tensor for name, tensor in connector.items()}
        )
        self.file.special.load_state_dict(self.ours.special.state_dict())

    def images(self, count):
        """The same pixels for ours, uint8, and for the file."""
        pixels = torch.randint(
            0, 256, (count, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
        )
        mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        torch.testing.assert_close(normalise(pixels), pixels / 127.5 - 1)
        return self.tower.encode({"image": pixels})[0], (pixels / 255 - mean) / std


@pytest.fixture(scope="module")
def pair(nano, tmp_path_factory):
    return Pair(nano, tmp_path_factory.mktemp("published"))


def test_it_has_fewer_than_500_lines_and_needs_three_packages():
    source = FILE.read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert len(source.splitlines()) < 500
    assert imported - sys.stdlib_module_names == {"torch", "torchvision", "PIL"}


@torch.no_grad()
def test_with_our_weights_it_has_our_logits(nano, pair):
    prompts = [[*nano.prompt(pair.config, question), *b"yes", nano.EOS] for question in ("Is it red?", "Is it dim?")]
    features, images = pair.images(2)
    ids = torch.tensor(prompts)
    own = torch.where(ids >= Bytes.size, Bytes.size - 1 - ids, ids)
    assert (own == IMAGE_PATCH).sum() == 2 * pair.config.image_tokens
    ours = pair.ours(own, torch.zeros_like(own), features=features)
    theirs = pair.file.logits(pair.file(ids, images))
    assert ours.std() > 0.3, "no trivial weights"
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    changed = pair.file.logits(pair.file(ids, images.flip(0)))
    assert (changed - theirs).abs().max() > 0.01, "it sees the image"


def test_a_prompt_is_ours(nano, pair):
    ids = nano.prompt(pair.config, "Is it red?")
    own = prompt_of(asked(("Is it red?", "yes"))[:2], Bytes(), "", pair.task.packing.images)
    assert [Bytes.size - 1 - token if token >= Bytes.size else token for token in ids] == own


def test_captions_and_answers_have_our_loss(nano, pair, tmp_path):
    """Shifted by one, on answers and their EOS alone, by our weights 2 / sqrt(n), in a padded batch."""
    samples = [("What is it?", "A bus."), (nano.CAPTION, "A very long caption of one small image.")]
    rows = [{"image": "0.png", "conversations": [{"from": "human", "value": f"<image>\n{samples[0][0]}"}, {"from": "gpt", "value": samples[0][1]}]},
            {"image_path": "1.png", "caption": samples[1][1]}]  # fmt: skip
    for number in range(2):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{number}.png")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = nano.Examples(tmp_path / "data.jsonl", pair.config)
    ids, weights, _ = nano.collate([data[0], data[1]])
    features, images = pair.images(2)
    task = pair.task
    contents = [asked(pair_of) for pair_of in samples]
    packed = task_rows(task, contents, features)
    total = weight = 0.0
    for row in packed:
        loss = task.loss(pair.ours, task.collate([task.example(row, VisionOptions(), 0)]))
        total, weight = total + loss.total.item(), weight + loss.weight
    assert pair.file.loss(ids, weights, images).item() == pytest.approx(total / weight, rel=1e-5)


def task_rows(task, contents, features):
    class Stored:
        def __getitem__(self, index):
            return f"k{index}", {"features": features[index]}

    rows = arrange(
        Samples(contents), task.tokenizer, task.packing, chat=image_chat(task.tokenizer, task.packing.images)
    )
    found = ImageRows(rows, Stored())
    return [found[index] for index in range(len(found))]


@torch.no_grad()
def test_answers_from_the_cache_are_those_of_the_full_forward_pass(nano, pair):
    image = pair.images(1)[1][0]
    ids = nano.prompt(pair.config, "Who?")
    found = list(pair.file.answer(ids, image, most=12))
    whole = torch.tensor([[*ids, *found]])
    logits = pair.file.logits(pair.file(whole, image[None]))[0]
    assert len(set(found)) > 1 and logits[len(ids) - 1 : -1].argmax(-1).tolist() == found


@pytest.fixture
def command(nano, tmp_path, monkeypatch, capsys):
    """Run the file's command line in a folder with six images: its output, and the error that ends it."""
    monkeypatch.chdir(tmp_path)
    lines = []
    for number, (name, colour) in enumerate([*COLOURS.items()] * 2):
        Image.new("RGB", (48, 30), colour).save(f"{number}.png")
        turns = [("human", "<image>\nWhich colour?"), ("gpt", name)]
        talk = [{"from": who, "value": value} for who, value in turns]
        lines.append(
            {"image": f"{number}.png", "conversations": talk}
            if number < 3
            else {"image_path": f"{number}.png", "caption": f"All {name}: ü."}
        )
    Path("data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["nanomolmo2.py", *map(str, arguments)])
        try:
            nano.main()
        except SystemExit as ended:
            return capsys.readouterr().out, str(ended.code)
        return capsys.readouterr().out, None

    return run


def test_it_learns_some_images_by_heart_and_answers(command):
    shape = json.dumps(SHAPE)
    shown, _ = command("train", "data.jsonl", "--validation", "data.jsonl", "--shape", shape, "--steps", 80, "--batch-size", 6,
                       "--rates", "1e-2", "1e-2", "1e-2", "--warmups", 5, 5, 5)  # fmt: skip
    losses = [float(loss) for loss in re.findall(r"step .* loss ([\d.]+)", shown)]
    assert losses[0] > 4 and losses[-1] < 0.2, shown
    assert float(re.search(r"validation loss ([\d.]+)", shown)[1]) < 0.2
    for number, name in enumerate(COLOURS):
        assert command("ask", "nanomolmo2.pt", f"{number}.png", "Which colour?")[0] == f"{name}\n"
        assert command("ask", "nanomolmo2.pt", f"{number}.png")[0] == f"All {name}: ü.\n"


def test_a_stopped_run_goes_on_to_the_same_weights_and_a_rate_of_0_freezes_a_part(nano, command, monkeypatch):
    rest = ["--shape", json.dumps(SHAPE), "--steps", 6, "--batch-size", 2, "--rates", 0, "1e-3", "1e-3"]
    rest += ["--warmups", 0, 1, 2, "--save-every", 3, "--log-every", 1]
    command("train", "data.jsonl", "--out", "whole.pt", *rest)
    calls = []

    def stop(line, **options):
        calls.append(line)
        if line.startswith("step     5"):
            raise SystemExit("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(nano, "print", stop, raising=False)
        assert command("train", "data.jsonl", "--out", "cut.pt", *rest)[1] == "stopped"
    assert nano.load(Path("cut.pt"))["step"] == 3
    command("train", "data.jsonl", "--out", "cut.pt", "--resume", *rest)
    whole, cut = (nano.load(Path(name))["model"] for name in ("whole.pt", "cut.pt"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    torch.manual_seed(0)
    first = nano.NanoMolmo2(nano.Config(**SHAPE)).state_dict()
    for name, tensor in first.items():
        if name.startswith("vision."):
            assert torch.equal(tensor, whole[name]), name
    assert not torch.equal(first["special.weight"], whole["special.weight"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "data.jsonl, line 2: not a sample in one of the two forms"),
        ('{"image": "0.png"}', "data.jsonl, line 2: not a sample in one of the two forms (KeyError('conversations'))"),
        ('{"image": "0.png", "conversations": [{"from": "gpt", "value": "a"}]}', "line 2: not a sample in one of the two forms"),
        ('{"image_path": "none.png", "caption": "a"}', "data.jsonl, line 2: there is no image none.png"),
        (json.dumps({"image_path": "0.png", "caption": "a" * 600}), "data.jsonl, line 2: 642 tokens, and the model has 512"),
    ],
)  # fmt: skip
def test_a_bad_line_ends_it_before_training(command, line, message):
    first = Path("data.jsonl").read_text().splitlines()[0]
    Path("data.jsonl").write_text(f"{first}\n{line}\n")
    shown, error = command("train", "data.jsonl")
    assert not shown and error.startswith("error: ") and message in error and "\n" not in error


def test_a_missing_checkpoint_and_a_broken_image_are_one_line(command):
    assert command("ask", "none.pt", "0.png")[1] == "error: no none.pt"
    Path("broken.png").write_bytes(Path("0.png").read_bytes()[:60])
    Path("data.jsonl").write_text('{"image_path": "broken.png", "caption": "a"}\n')
    error = command("train", "data.jsonl", "--steps", 1, "--batch-size", 1)[1]
    assert error.startswith("error: broken.png: no readable image (")
