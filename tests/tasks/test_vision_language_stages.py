"""A vision-language model from records to answers, with small pictures and clips and a small tower. One set of bytes however it is trained, and what is refused."""

import io
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from glassworks.config import registry
from glassworks.config.encoder import Encoder
from glassworks.data.animations import write_webp
from glassworks.data.messages import Size, parse_messages
from glassworks.data.points import write_points
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.data.reading.features import FeatureRows, FeatureTable, JoinedFeatures
from glassworks.data.records import Record
from glassworks.encoders.tower import load_tower
from glassworks.errors import ArtifactError, ConfigError, DataError
from glassworks.evaluation.questions.asked import asked_of
from glassworks.generation.decoding import answer
from glassworks.generation.settings import Decoding
from glassworks.inference import ask, caption, generate
from glassworks.runtime import fork_server
from glassworks.runtime.signals import StopRequest
from glassworks.stages import records as records_stage
from glassworks.stages import shards as shards_stage
from glassworks.stages.train import describe
from glassworks.training.loop import Run, fit
from glassworks.training.metrics_log import read_metrics
from glassworks.training.workers import Workers

from ..conftest import SmallProject
from ..tiny_towers import image_tower
from ..training.engine import Stopped

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 70, 220)}
PARAMS = {
    "datasets": {
        name: {"source": "folder", "path": name, "samples_per_shard": 5, "shard_jobs": 1}
        for name in ("pictures", "clips", "texts", "pairs")
    },
    "weights": {"cnn": {"source": "local", "path": "cnn"}, "other_cnn": {"source": "local", "path": "other_cnn"}},
    "encoders": {
        "eye": {
            "encoder": "timm_image",
            "weights": "cnn",
            "image_size": 40,
            "layer": -2,
            "batch_size": 4,
            "pooling": "none",
            "dtype": "float16",
            "clips": {"frames": 3, "rate": 2},
        }
    },
}
EXPERIMENT = {
    "task": "vision_language",
    "data": {
        "train": [
            {"dataset": "pictures", "rate": 0.4, "options": {"kinds": {"where": 0.2}}},
            {"dataset": "clips", "rate": 0.3},
            {"dataset": "texts", "rate": 0.3, "options": {"images": False}},
        ],
        "held_out": {"pictures": "validation", "clips": "validation"},
        "tokenizer": {"kind": "characters"},
        "images_per_row": 4,
    },
    "model": {
        "tower": {"encoder": "eye"},
        "grid": 3,
        "connector": {"heads": 2, "norm": True, "positions": True, "video_window": 3},
        "decoder": {"width": 16, "depth": 2, "heads": 2, "max_tokens": 160, "position": "rotary"},
    },
    "optimization": {
        "optimizer": "Muon",
        "learning_rate": 0.005,
        "warmup_steps": 1,
        "groups": {"connector": {"parameters": ["connector.*", "special.*"], "learning_rate": 0.01}},
    },
    "training": {"steps": 4, "batch_size": 4, "micro_batches": 2, "validate_every": 2, "z_loss": 1e-4, "naming": 0.5},
    "execution": {"checkpoint_every": 1},
    "evaluations": {
        "questions": {"bootstrap": 100, "batch_size": 2, "max_new_tokens": 12},
        "clips": {"kind": "questions", "dataset": "clips", "bootstrap": 100, "batch_size": 2, "max_new_tokens": 12},
    },
}
FILES = ("model.safetensors", "config.json", "metrics.jsonl")
BOX = [4, 8, 20, 30]


def picture(number: int, split: str) -> Record:
    key, colour = f"{split}{number}", list(COLOURS)[number % 3]
    point = write_points([(30, 48)], "it")
    pairs = [("colour", "which colour?", colour), ("where", "where is it?", point)][: 1 + number % 2]
    found = [{"role": "user", "content": [{"type": "image", "media": "png"}]}]
    for branch, (_, question, reply) in enumerate(pairs, start=1):
        found += [{"role": "user", "content": question, "branch": branch}]
        found += [{"role": "assistant", "content": reply, "branch": branch}]
    questions = [
        {"kind": kind, "answer": reply, **({"boxes": [BOX]} if kind == "where" else {})} for kind, _, reply in pairs
    ]
    sizes = {"png": Size(kind="image", width=40, height=40)}
    labels = {"questions": questions, "objects": [{"name": colour, "boxes": [BOX]}]}
    return Record(key, split, key, [], labels, {}, parse_messages(found, key), sizes)


def clip(number: int, split: str) -> Record:
    """Of 2 or 5 frames, half a second each. A model sees 2, or 3 of the 5."""
    key, colour = f"{split}{number}", list(COLOURS)[number % 3]
    messages = [
        {"role": "user", "content": [{"type": "video", "media": "webp"}]},
        {"role": "user", "content": "which comes first?", "branch": 1},
        {"role": "assistant", "content": colour, "branch": 1},
    ]
    frames = 5 - 3 * (number % 2)
    sizes = {"webp": Size(kind="video", width=40, height=40, frames=frames, seconds=frames / 2)}
    labels = {"questions": [{"kind": "order", "answer": colour}]}
    return Record(key, split, key, [], labels, {}, parse_messages(messages, key), sizes)


def pair(number: int, split: str) -> Record:
    """Two images. With tiles, the wide one is also seen as two crops, the other one as one."""
    key, colour = f"{split}{number}", list(COLOURS)[number % 3]
    media = [{"type": "image", "media": member} for member in ("0.png", "1.png")]
    messages = [
        {"role": "user", "content": media},
        {"role": "user", "content": "which colour is wide?", "branch": 1},
        {"role": "assistant", "content": colour, "branch": 1},
    ]
    wide = {"0.png": (40, 40), "1.png": (96, 64)} if number % 2 else {"0.png": (96, 64), "1.png": (40, 40)}
    sizes = {name: Size(kind="image", width=width, height=height) for name, (width, height) in wide.items()}
    labels = {"questions": [{"kind": "colour", "answer": colour}]}
    return Record(key, split, key, [], labels, {}, parse_messages(messages, key), sizes)


def text(number: int, split: str) -> Record:
    return Record(f"{split}{number}", split, f"{split}{number}", [f"which colour is it? {number}"])


SPLITS = (("train", 14), ("validation", 4), ("test", 5))
RECORDS = {
    name: [make(number, split) for split, count in SPLITS for number in range(count)]
    for name, make in (("pictures", picture), ("clips", clip), ("texts", text), ("pairs", pair))
}


def painted(record, size):
    """A PNG in the colour of the answer, if it is the wide image, and else white; the right half is darker."""
    colour = COLOURS[record.labels["questions"][0]["answer"]] if size.width == 96 else (255, 255, 255)
    image, file = Image.new("RGB", (size.width, size.height), colour), io.BytesIO()
    image.paste(tuple(value // 2 for value in colour), (size.width // 2, 0, size.width, size.height))
    image.save(file, "PNG")
    return file.getvalue()


def media(record):
    if not record.messages:
        return {}
    if "0.png" in record.sizes:
        return {name: painted(record, size) for name, size in record.sizes.items()}
    if "webp" in record.sizes:
        shades = range(record.sizes["webp"].frames)
        colour = COLOURS[record.labels["questions"][0]["answer"]]
        frames = [Image.new("RGB", (40, 40), tuple(value - 5 * shade for value in colour)) for shade in shades]
        return {"webp": write_webp(frames, 500)}
    image = Image.new("RGB", (40, 40), COLOURS[record.labels["questions"][0]["answer"]])
    image.putpixel((len(record.key), 3), (255, 255, 255))
    content = io.BytesIO()
    image.save(content, "PNG")
    return {"png": content.getvalue()}


def with_(experiment=EXPERIMENT, **sections):
    return {**experiment, **{name: {**experiment[name], **changes} for name, changes in sections.items()}}


LOOP = with_(model={"tower": {"encoder": "eye", "features": "loop"}})


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A project with pictures, texts, a tower, and the trained experiment `stored`."""
    source = SimpleNamespace(records=lambda context: iter(RECORDS[context.stage.subject]), media=lambda context: media)
    made = SmallProject(tmp_path_factory.mktemp("seeing"))
    with pytest.MonkeyPatch.context() as patch:
        for stage in (records_stage, shards_stage):
            patch.setattr(stage, "load_source", lambda name: source)
        for name in RECORDS:
            (made.root / name).mkdir()
            (made.root / name / "captions.csv").write_text("file,caption\n")
        image_tower(made.root / "cnn")
        image_tower(made.root / "other_cnn", seed=1)
        for stage in made.configure(PARAMS, stored=EXPERIMENT):
            if stage.kind not in ("evaluate", "report"):
                made.run(stage.name)
    return made


@pytest.fixture
def seeing(trained, tmp_path):
    """A copy of the project."""
    return trained.copy(tmp_path / "project")


def content(folder, names=FILES):
    return {name: (folder / name).read_bytes() for name in names}


def killed_and_resumed(project, name, folder, steps):
    """The published weights of a run that is killed after each of `steps`."""
    run = describe(project.context(name, folder))
    for step in steps:

        def cut(first, part, step=step):
            batches = run.batches(first, part)
            for _ in range(first, step):
                yield next(batches)
            raise Stopped

        with pytest.raises(Stopped):
            fit(Run(**{**vars(run), "batches": cut}), Workers(), StopRequest())
    fitted = fit(run, Workers(), StopRequest())
    assert fitted.resumed_step == steps[-1]
    run.task.save(fitted.model, folder / "published")
    return (folder / "published/model.safetensors").read_bytes()


def test_one_set_of_bytes_stored_or_in_the_loop_for_any_number_of_workers_and_killed(seeing, tmp_path):
    found = content(seeing.root / "models/stored")
    table = seeing.configure(PARAMS, stored=EXPERIMENT, loop=LOOP)
    for name in ("weights-other_cnn", "tokenizer-loop", "pack-loop"):
        seeing.run(name)
    fork_server.start(*(f"glassworks.{entry}" for entry in table["train-loop"].entries))
    assert content(seeing.run("train-loop", threads=2, workers=2)) == found
    assert killed_and_resumed(seeing, "train-stored", tmp_path / "killed", (1, 3)) == found["model.safetensors"]
    last = read_metrics(seeing.root / "models/stored/metrics.jsonl")[-1]
    assert last["validation_z_loss"] > 0 and last["validation_loss"] > 0
    assert any(step.get("loss.naming") for step in read_metrics(seeing.root / "models/stored/metrics.jsonl"))
    config = json.loads(found["config.json"])
    assert (config["model"], config["tower"]["tokens"], config["tower"]["width"]) == ("vision_language", 9, 48)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "loaders"), [(1, 2), (2, 0), (2, 2)])
def test_stored_features_have_these_bytes_for_more_workers_and_loaders(seeing, workers, loaders):
    seeing.configure(PARAMS, stored=with_(execution={"checkpoint_every": 1, "loader_workers": loaders}))
    found = content(seeing.root / "models/stored")
    shutil.rmtree(seeing.root / "models/stored")
    fork_server.start(*(f"glassworks.{entry}" for entry in seeing.table["train-stored"].entries))
    assert content(seeing.run("train-stored", threads=workers, workers=workers)) == found


def test_the_evaluation_has_one_set_of_bytes_and_controls(seeing):
    names = ("metrics.json", "items.jsonl", "labels.json")
    one = content(seeing.run("evaluate-stored-questions"), names)
    shutil.rmtree(seeing.root / "results")
    fork_server.start(*(f"glassworks.{entry}" for entry in seeing.table["evaluate-stored-questions"].entries))
    assert content(seeing.run("evaluate-stored-questions", threads=2, workers=2), names) == one
    metrics, items = json.loads(one["metrics.json"]), [json.loads(line) for line in one["items.jsonl"].splitlines()]
    assert metrics["questions"] == {"colour": 5, "where": 2} and metrics["pointing"] == ["where"]
    assert set(metrics["systems"]) == {"model", "shuffled", "blank", "no_image", "majority"}
    assert metrics["systems"]["majority"]["where"]["value"] == 1.0, "one answer is always right"
    assert metrics["systems"]["majority"]["colour"]["value"] == 0.4, "red or green, 2 of 5"
    assert [item["kind"] for item in items[:5]] == ["colour", "where", "colour", "where", "colour"], "one of each image"
    assert len(items) == 7 and len(list((seeing.root / "results/stored/questions/gallery").iterdir())) == 5
    assert items[1]["marks"]["majority"] == {"right": True}
    clips = seeing.run("evaluate-stored-clips")
    metrics, labels = (json.loads((clips / name).read_text()) for name in ("metrics.json", "labels.json"))
    controls = {"model", "shuffled", "shuffled_frames", "one_frame", "blank", "no_image", "majority"}
    assert set(metrics["systems"]) == controls and metrics["questions"] == {"order": 5}
    assert [row["title"] for row in labels["table"]["rows"]][1:3] == ["shuffled clips", "shuffled frames"]
    with Image.open(clips / "gallery/test0.png") as strip:  # three of five frames side by side, the last one darker
        assert strip.size == (3 * 40 + 2 * 2, 40)
        assert (strip.getpixel((5, 5)), strip.getpixel((123, 5))) == ((220, 30, 30), (200, 10, 10))
    page = (seeing.run("report") / "report.html").read_text()
    assert "</span>which colour?</p>" in page and "question only" in page
    assert "[image: 4 tokens]" in page and "0.0 [frame: 1 tokens]1.0 [frame: 1 tokens]2.0 " in page, "training rows"


def test_a_model_continues_another_at_its_last_validation(seeing):
    """Stage 2 before its first step equals the last validation of stage 1; the shape is not repeated. Only the frames of a clip may be others."""
    later = {
        **{key: EXPERIMENT[key] for key in ("task", "optimization", "execution")},
        "data": {**EXPERIMENT["data"], "tokenizer": {"of": "stored"}},
        "model": {"from": "stored"},
        "training": EXPERIMENT["training"],
        "evaluations": {},
    }
    table = seeing.configure(PARAMS, stored=EXPERIMENT, later=later)
    assert table["pack-later"].params["rows"] == table["pack-stored"].params["rows"]
    seeing.run("pack-later")
    context = seeing.context("train-later", seeing.root / "work")
    run = describe(context)
    model = run.task.build()
    matches = run.start(model)
    assert not matches.new and not matches.left_over
    found = {}
    for batch in run.held_out.read(range(run.held_out.count)):
        for name, (total, weight) in run.task.validate(model.eval(), batch).items():
            sums = found.setdefault(name, [0.0, 0.0])
            sums[0], sums[1] = sums[0] + total, sums[1] + weight
    last = read_metrics(seeing.root / "models/stored/metrics.jsonl")[-1]
    for name, (total, weight) in found.items():
        assert last[f"validation_{name}"] == pytest.approx(total / weight, rel=1e-12), name
    eyes = {"more_frames": {"clips": {"frames": 5, "rate": 2}}, "other_eye": {"weights": "other_cnn"}}
    more = {**PARAMS, "encoders": {"eye": PARAMS["encoders"]["eye"]}}
    more["encoders"] |= {name: {**PARAMS["encoders"]["eye"], **changes} for name, changes in eyes.items()}
    for name in eyes:
        tower = {"encoder": name, "features": "loop"}
        seeing.configure(more, stored=EXPERIMENT, later={**later, "model": {"from": "stored", "tower": tower}})
        packed = seeing.table["pack-later"].params["rows"]["images"]["frames"]["clips"]
        assert packed == {"frames": 5 if name == "more_frames" else 3, "rate": 2.0}
    with pytest.raises(
        ConfigError, match=r"^model\.tower\.encoder: 'other_eye' has other weights or settings than 'eye'"
    ):
        for stage in ("weights-other_cnn", "pack-later", "train-later"):
            seeing.run(stage)


def test_a_decoder_begins_as_a_language_model(seeing):
    text_model = {
        "task": "language_modelling",
        "data": {"dataset": "texts", "tokenizer": {"kind": "characters"}},
        "model": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 32, "position": "rotary"},
        "training": {"steps": 1, "batch_size": 2, "micro_batches": 1},
        "evaluations": {},
    }
    model = {name: value for name, value in EXPERIMENT["model"].items() if name != "decoder"}
    seen = with_(
        data={
            "train": [],
            "dataset": "texts",
            "tokenizer": {"of": "lm"},
            "options": {"images": True},
            "held_out": {"texts": "validation"},
        }
    )
    seen = {
        **seen,
        "data": {"dataset": "pictures", "tokenizer": {"of": "lm"}},
        "model": {**model, "language_model": "lm", "max_tokens": 160},
    }
    seeing.configure(PARAMS, lm=text_model, seen=seen)
    for stage in ("tokenizer-lm", "pack-lm", "train-lm", "pack-seen"):
        seeing.run(stage)
    run = describe(seeing.context("train-seen", seeing.root / "work"))
    built = run.task.build()
    matches = run.start(built)
    assert matches.matched and all(name.startswith(("connector.", "special")) for name in matches.new)
    assert built.config.decoder.width == 16 and built.config.decoder.depth == 1


def test_a_model_answers_questions_about_files(seeing, capsys):
    """One image is streamed, several are lines of JSON; the tower is found by the digest of its weights."""
    files = []
    for number in range(2):
        files.append(seeing.root / f"{number}.png")
        files[-1].write_bytes(media(RECORDS["pictures"][number])["png"])

    def asked(paths, **options):
        shown = []
        given = {"draw": None, "as_json": False, **options}
        ask.run(
            seeing.root / "models/stored",
            paths,
            "which colour?",
            Decoding(max_new_tokens=9),
            show=shown.append,
            project=seeing.root,
            **given,
        )
        return "".join(shown)

    lines = [json.loads(line) for line in asked(files, as_json=True).splitlines()]
    assert [line["file"] for line in lines] == [str(file) for file in files]
    assert asked(files[:1], draw=seeing.root / "drawn.png") == lines[0]["answer"] + "\n"
    with Image.open(seeing.root / "drawn.png") as drawn:
        assert drawn.size == (40, 40)
    animation = seeing.root / "2.webp"
    animation.write_bytes(media(RECORDS["clips"][0])["webp"])
    mixed = [json.loads(line)["answer"] for line in asked([animation, *files], as_json=True).splitlines()]
    assert mixed[1:] == [line["answer"] for line in lines]
    assert asked([animation]) == mixed[0] + "\n"
    with pytest.raises(ConfigError, match=r"^--draw: 2 images would be drawn into one file; ask about one image$"):
        asked(files, draw=seeing.root / "drawn.png")
    for verb in (generate.Writer, caption.Describer):
        with pytest.raises(
            ArtifactError, match=r"answers questions about images; `glassworks ask .* IMAGE QUESTION` asks it"
        ):
            verb(seeing.root / "models/stored", seeing.root)
    shutil.rmtree(seeing.root / "data/weights/cnn")
    with pytest.raises(
        ArtifactError, match=r"stored: the weights of its encoder 'eye' are not in .*data/weights; make them"
    ):
        asked(files)


TILES = {
    **PARAMS,
    "encoders": {**PARAMS["encoders"], "tiled": {**PARAMS["encoders"]["eye"], "image_size": 64, "tiles": {"most": 2, "margin": 1}}},
}  # fmt: skip
"""4 x 4 patches of 16 pixels. An image of 96 x 64 pixels has two crops side by side, one of 40 x 40 one crop."""
CONNECTOR = {"heads": 2, "norm": True, "positions": True, "tile_window": 2}
TILED = {
    **with_(
        data={
            "train": [{"dataset": "pairs", "rate": 0.6}, {"dataset": "pictures", "rate": 0.4}],
            "held_out": {"pairs": "validation"},
            "images_per_row": 8,
        },
        training={"steps": 2, "naming": 0.0},
    ),
    "model": {**EXPERIMENT["model"], "tower": {"encoder": "tiled"}, "grid": 4, "connector": CONNECTOR},
    "evaluations": {"questions": {"dataset": "pairs", "bootstrap": 100, "batch_size": 2, "max_new_tokens": 8}},
}


def test_several_images_with_tiles_have_one_set_of_bytes_and_answers(seeing):
    """Stored with one worker and in the loop with two. The files hold every picture in the order of the tokens."""
    loop = with_(TILED, model={"tower": {"encoder": "tiled", "features": "loop"}})
    table = seeing.configure(TILES, tiled=TILED, loop=loop)
    assert table["pack-tiled"].settings["params.yaml"] == ("encoders.tiled.tiles", "encoders.tiled.image_size")
    features, _ = seeing.run("features-tiled-pairs"), seeing.run("features-tiled-pictures")
    first = load_file(features / "train-00000.safetensors")
    assert first["frames"].tolist() == [1 + 2 + 1 + 1] * 5 and first["features"].shape == (25, 16, 48)
    assert torch.equal(first["features"][3], first["features"][4]), "the only crop of an image is the whole image"
    assert not torch.equal(first["features"][1], first["features"][2])
    pairs = ShardDataset(seeing.root / "data/shards/pairs", "train")
    with pytest.raises(
        DataError, match=r"the sample 'train0' has several images or frames, and this task reads one image"
    ):
        JoinedFeatures(pairs, {"tiled": FeatureRows(FeatureTable(features), pairs)}, with_samples=False)[0]
    for name in ("tokenizer-tiled", "pack-tiled", "tokenizer-loop", "pack-loop"):
        seeing.run(name)
    found = content(seeing.run("train-tiled"))
    fork_server.start(*(f"glassworks.{entry}" for entry in table["train-loop"].entries))
    assert content(seeing.run("train-loop", threads=2, workers=2)) == found
    assert "special_tiles.weight" in load_file(seeing.root / "models/tiled/model.safetensors")

    names = ("metrics.json", "items.jsonl", "labels.json")
    one = content(seeing.run("evaluate-tiled-questions"), names)
    metrics = json.loads(one["metrics.json"])
    assert metrics["questions"] == {"colour": 5} and set(metrics["systems"]) == {
        "model",
        "shuffled",
        "blank",
        "no_image",
        "majority",
    }
    with Image.open(seeing.root / "results/tiled/questions/gallery/test0.png") as strip:
        assert strip.size == (2 * 96 + 2, 64)
        assert (strip.getpixel((5, 5)), strip.getpixel((140, 32))) == ((220, 30, 30), (255, 255, 255))
    rows = json.loads((seeing.root / "data/packs/tiled/rows.json").read_text())["pairs"]
    streams = {runs[0][0] for row in rows for runs in row["texts"]}
    assert {text.removeprefix("<|bos|>").removesuffix("<|eos|>") for text in streams if "image" in text} == {
        "[image: 4 tokens][tiles: 6 tokens][image: 4 tokens][tiles: 4 tokens]",
        "[image: 4 tokens][tiles: 4 tokens][image: 4 tokens][tiles: 6 tokens]",
    }

    files = []
    for member, data in media(RECORDS["pairs"][0]).items():
        files.append(seeing.root / member)
        files[-1].write_bytes(data)
    answerer = ask.Answerer(seeing.root / "models/tiled", seeing.root)
    asked = answerer.of_files(files)
    seen, stored = answerer.features([asked]), first["features"]
    assert torch.equal(seen["features"], stored[[0, 3]]) and torch.equal(seen["tiles"], stored[[1, 2, 4]])
    sample = pairs[0]
    question = asked_of(sample)[0]
    prompt = answerer.prompt("which colour is wide?", asked)
    assert prompt == answerer.tokens(question.messages, asked)
    decoding, tiles = Decoding(max_new_tokens=8), {"tiles": stored[[1, 2, 4]], "tile_windows": seen["tile_windows"]}
    [ids] = answer(answerer.model, [prompt], stored[[0, 3]], decoding, answerer.tokenizer.ends, **tiles)
    assert "".join(answerer.pieces(asked, question.text, decoding)) == answerer.tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("encoder", "model", "line"),
    [
        ({}, {"connector": {**CONNECTOR, "tile_window": None}}, "experiments/tiled.yaml: model.tower.encoder: 'tiled' has tiles, and this model reads whole images; set model.connector.tile_window, or name an encoder without them"),
        ({}, {"tower": {"encoder": "eye"}}, "experiments/tiled.yaml: model.connector.tile_window: the encoder 'eye' cuts no tiles; give it `tiles`, or remove this key"),
        ({"tiles": {"most": 2, "margin": 2}}, {}, "experiments/tiled.yaml: encoders.tiled.tiles: two margins of 2 leave nothing of the 4 patches of a crop; lower tiles.margin"),
        ({}, {"connector": {**CONNECTOR, "tile_window": 3}}, "encoders.tiled.tiles.margin: two margins of 1 leave 2 of the 4 patches of a crop, fewer than model.connector.tile_window (3); lower it"),
        ({"image_size": 63}, {}, "experiments/tiled.yaml: encoders.tiled.tiles: 63 pixels of a crop are not 4 whole patches; choose an image size that is a multiple of 4"),
        ({"pooling": "mean", "clips": None}, {}, "tiles: the features of crops are tokens; set pooling: none, or remove this key"),
        ({"encoder": "clip_image", "image_size": None}, {}, "tiles.side: the weights of this encoder have its image size; write it here, such as 336"),
    ],
)  # fmt: skip
def test_tiles_that_do_not_fit_are_one_line(project, encoder, model, line):
    for name in RECORDS:
        project.root.joinpath(name).mkdir()
    tiled = {key: value for key, value in {**TILES["encoders"]["tiled"], **encoder}.items() if value is not None}
    params = {**TILES, "encoders": {**TILES["encoders"], "tiled": tiled}}
    with pytest.raises(ConfigError) as refused:
        project.configure(params, tiled={**TILED, "model": {**TILED["model"], **model}})
    assert line in str(refused.value)


def test_weights_of_a_kind_of_question_that_a_dataset_lacks_are_one_line(project):
    scenes = {"source": "scene_clips", "sprites": "drawings", "samples": {"train": 8}, "questions": {"order": 1}}
    drawings = {"source": "openmoji", "size": 72}
    for kind in ("orders", "action"):
        data = {"dataset": "scenes", "options": {"kinds": {kind: 2}}}
        params = {**PARAMS, "datasets": {"drawings": drawings, "scenes": scenes}}
        asked = {**with_(data=data), "evaluations": {}, "data": {**data, "tokenizer": {"kind": "characters"}}}
        with pytest.raises(ConfigError) as refused:
            project.configure(params, asked=asked)
        line = f"experiments/asked.yaml: data: options.kinds of scenes: it has no questions of the kind {kind!r}"
        assert line in str(refused.value)
    asked["data"]["options"] = {"kinds": {"order": 2}}
    project.configure(params, asked=asked)


def test_other_tasks_read_no_tiles(project):
    for name in RECORDS:
        project.root.joinpath(name).mkdir()
    aligned = {
        "task": "alignment",
        "data": {"dataset": "pairs"},
        "model": {"towers": {name: {"encoder": "tiled", "head": "perceiver"} for name in ("image", "text")}},
        "training": {"steps": 1, "batch_size": 4},
    }
    with pytest.raises(
        ConfigError,
        match="'tiled' has tiles, and the task alignment reads one image a sample; name an encoder without them",
    ):
        project.configure(TILES, aligned=aligned)


def test_media_that_a_tower_cannot_read_are_one_line(seeing):
    """A record with another size than its image, an image that is missing, and a clip beside an image for an encoder without clips."""
    seeing.configure(TILES, tiled=TILED)
    table = seeing.table["features-tiled-pairs"]
    settings = parse_encoder(table.params["encoder"])
    tower = load_tower("tiled", settings, seeing.root / "data/weights/cnn")
    sample = ShardDataset(seeing.root / "data/shards/pairs", "train")[0]

    def refused(change, members=sample.members, tower=tower):
        stored = change(sample.json())
        with pytest.raises(DataError) as found:
            tower.pictures(Sample("k", {**members, "json": memoryview(json.dumps(stored).encode())}, "here"))
        return str(found.value)

    def resized(stored):
        return {**stored, "sizes": {**stored["sizes"], "0.png": {"kind": "image", "width": 64, "height": 96}}}

    assert refused(resized) == "here: the image '0.png' has 96 x 64 pixels, and its record says 64 x 96"
    assert refused(lambda stored: {**stored, "sizes": {}}).startswith(
        "here: the record of the image '0.png' needs its sizes"
    )
    assert refused(lambda stored: stored, {"1.png": sample.members["1.png"]}) == "here: no image '0.png' (1.png, json)"
    still = load_tower("tiled", settings.model_copy(update={"clips": None}), seeing.root / "data/weights/cnn")
    mixed = [{"role": "user", "content": [{"type": "video", "media": "0.png"}, {"type": "image", "media": "1.png"}]}]
    assert refused(lambda stored: {**stored, "messages": mixed}, tower=still) == (
        "here: holds the video '0.png' beside others, and the encoder 'tiled' has no clips"
    )
    other = settings.model_copy(update={"tiles": settings.tiles.model_copy(update={"side": 48})})
    with pytest.raises(
        ConfigError, match=r"^encoders\.tiled\.tiles\.side: the images of this encoder have 64 pixels, not 48$"
    ):
        load_tower("tiled", other, seeing.root / "data/weights/cnn")


def parse_encoder(entry):
    return registry.settings_class("encoders", entry["encoder"], Encoder).model_validate_json(json.dumps(entry))


def test_features_of_another_encoder_are_refused(seeing):
    other = {**PARAMS, "encoders": {"eye": {**PARAMS["encoders"]["eye"], "weights": "other_cnn"}}}
    seeing.configure(other, stored=EXPERIMENT)
    seeing.run("features-eye-pictures")
    with pytest.raises(ArtifactError, match="but the model was trained on others of 'eye'; train it again"):
        seeing.run("evaluate-stored-questions")
    seeing.configure(
        {**PARAMS, "encoders": {"eye": {**PARAMS["encoders"]["eye"], "pooling": "mean", "clips": None}}},
        stored=EXPERIMENT,
    )
    seeing.run("features-eye-pictures")
    with pytest.raises(
        ConfigError, match=r"^encoders\.eye\.pooling: a vision-language model reads the tokens of an image"
    ):
        seeing.run("train-stored")


def test_a_grid_that_is_not_that_of_the_tower_is_one_line(seeing):
    seeing.configure(PARAMS, stored=with_(model={"grid": 4}))
    seeing.run("pack-stored")
    with pytest.raises(
        ArtifactError,
        match=r"^model\.grid: the tower gives 9 tokens an image, and a grid of 4 by 4 patches has 16; set it to 3$",
    ):
        seeing.run("train-stored")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": {"language_model": "lm"}}, "give either decoder or language_model, not both"),
        ({"model": {"connector": {"kind": "pixel_shuffle"}}}, "connector.window: 2 does not divide the 3 patches of a side"),
        ({"model": {"tower": {"encoder": "ear"}}}, "model.tower.encoder: params.yaml has no encoder 'ear'; allowed: eye"),
        ({"data": {"train": [{"dataset": "texts", "options": {"images": False}}]}}, "data: no dataset has images"),
        ({"training": {"neftune": 5.0}}, "training: neftune: the task vision_language has no noise; remove it"),
        ({"training": {"reduction": "fsdp2"}}, "optimization.optimizer: Muon needs whole matrices, which fsdp2 shards"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_one_line(project, changes, line):
    for name in RECORDS:
        project.root.joinpath(name).mkdir()
    with pytest.raises(ConfigError) as refused:
        project.configure(PARAMS, stored=with_(**changes))
    assert line in str(refused.value)


def test_the_features_of_several_layers_are_joined(tmp_path):
    """Class tokens of CLIP and coarser maps of a convolutional network included."""
    import torch
    import transformers

    from glassworks.encoders.clip_image.encoder import load as load_clip
    from glassworks.encoders.clip_image.settings import ClipImage
    from glassworks.encoders.timm_image.encoder import load as load_timm
    from glassworks.encoders.timm_image.settings import TimmImage

    image = {"image": torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)}
    image_tower(tmp_path / "cnn")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**sizes, image_size=32, patch_size=8)
    transformers.CLIPVisionModel(vision).save_pretrained(tmp_path / "clip")
    for load, settings, folder in ((load_timm, TimmImage, "cnn"), (load_clip, ClipImage, "clip")):
        given = {"weights": folder, "image_size": 32} if folder == "cnn" else {"weights": folder}
        towers = [load(settings(**given, layer=layer), tmp_path / folder) for layer in (-2, -3, (-2, -3))]
        first, second, both = (tower.encode(image)[0] for tower in towers)
        assert both.shape[-1] == towers[2].width == towers[0].width + towers[1].width
        width = first.shape[-1]
        torch.testing.assert_close(both[:, 0, :width], first[:, 0])  # the same place of maps of any size
        torch.testing.assert_close(both[..., width:], second)
