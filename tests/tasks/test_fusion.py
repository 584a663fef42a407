"""Fused decoding from stored features to scores: one set of bytes however it is trained, hidden modalities, and what is refused."""

import io
import json
import shutil
from types import SimpleNamespace

import pytest
import soundfile
import torch
from PIL import Image

from glassworks.data.records import Record
from glassworks.errors import ArtifactError, ConfigError, DataError
from glassworks.generation.settings import Decoding
from glassworks.inference import transcribe
from glassworks.models.pretrained.fused_decoder import load_fused_decoder
from glassworks.runtime import fork_server
from glassworks.stages import records as records_stage
from glassworks.stages import shards as shards_stage
from glassworks.stages.train import describe
from glassworks.tasks.fusion.task import without_some
from glassworks.training.metrics_log import read_metrics

from ..conftest import SmallProject
from ..tiny_towers import image_tower, speech_tower
from .test_vision_language_stages import content, killed_and_resumed

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 70, 220)}
PARAMS = {
    "datasets": {"spoken": {"source": "folder", "path": "spoken", "samples_per_shard": 5, "shard_jobs": 1}},
    "weights": {"cnn": {"source": "local", "path": "cnn"}, "ear": {"source": "local", "path": "ear"}},
    "encoders": {
        "eye": {"encoder": "timm_image", "weights": "cnn", "image_size": 32, "batch_size": 4},
        "ear": {"encoder": "whisper", "weights": "ear", "seconds": 1, "pooling": "none", "batch_size": 4},
    },
}
BASE = {
    "task": "language_modelling",
    "data": {"dataset": "spoken", "tokenizer": {"kind": "characters"}},
    "model": {"width": 16, "depth": 2, "heads": 2, "max_tokens": 60, "position": "rotary", "norm": "rms"},
    "training": {"steps": 2, "batch_size": 2, "micro_batches": 1},
    "evaluations": {},
}
TOWERS = {"image": {"encoder": "eye", "tokens": 2}, "audio": {"encoder": "ear", "stack": 3}}
SMALL = {
    "task": "fusion",
    "data": {"dataset": "spoken", "options": {"loss_weight": 0.5}, "tokenizer": {"of": "base"}},
    "model": {
        "fusion": {"kind": "gated", "heads": 2, "dropout": 0.1},
        "decoder": {**BASE["model"], "dropout": 0.1, "recursion": {"outer_recursions": 2, "supervision_steps": 2}},
        "towers": TOWERS,
    },
    "optimization": {"warmup_steps": 1, "learning_rate": 0.01},
    "training": {
        "steps": 4,
        "batch_size": 8,
        "micro_batches": 4,
        "validate_every": 2,
        "modality_dropout": 0.3,
        "z_loss": 1e-4,
        "ctc": {"audio": 0.5},
    },
    "execution": {"checkpoint_every": 1},
    "evaluations": {"transcription": {"bootstrap": 100, "batch_size": 3, "max_new_tokens": 8}},
}
ADAPTED = {
    **SMALL,
    "model": {
        "fusion": {"kind": "cross_attention", "heads": 2, "queries": 3},
        "language_model": "base",
        "max_tokens": 30,
        "adapter": {"rank": 2, "dropout": 0.1},
        "base_dtype": "nf4",
        "towers": TOWERS,
    },
}
SPLITS = (("train", 16), ("validation", 4), ("test", 7))
RECORDS = [
    Record(f"{split}{number:02d}", split, f"{split}{number}", [f"{list(COLOURS)[number % 3]} {number}", "a square"])
    for split, count in SPLITS
    for number in range(count)
]


def media(record):
    """A picture of the colour, which every fourth sample lacks, and a sound of a length of its own."""
    number = int(record.key[-2:])
    sound = io.BytesIO()
    tone = torch.sin(torch.arange(1600 * (2 + number % 5)) * (0.02 + 0.02 * (number % 3)))
    soundfile.write(sound, tone.numpy(), 16_000, format="FLAC")
    found = {"flac": sound.getvalue()}
    if number % 4:
        picture = io.BytesIO()
        Image.new("RGB", (32, 32), list(COLOURS.values())[number % 3]).save(picture, "PNG")
        found["png"] = picture.getvalue()
    return found


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A project with spoken pictures, two towers, a language model, and the trained experiments `small` and `adapted`."""
    source = SimpleNamespace(records=lambda context: iter(RECORDS), media=lambda context: media)
    project = SmallProject(tmp_path_factory.mktemp("fused"))
    with pytest.MonkeyPatch.context() as patch:
        for stage in (records_stage, shards_stage):
            patch.setattr(stage, "load_source", lambda name: source)
        (project.root / "spoken").mkdir()
        (project.root / "spoken/captions.csv").write_text("file,caption\n")
        image_tower(project.root / "cnn")
        speech_tower(project.root / "ear")
        for stage in project.configure(PARAMS, base=BASE, small=SMALL, adapted=ADAPTED):
            if stage.kind not in ("evaluate", "report"):
                project.run(stage.name)
    return project


@pytest.fixture
def fused(made, tmp_path):
    """A copy of the project."""
    return made.copy(tmp_path / "project")


FILES = ("model.safetensors", "config.json", "metrics.jsonl")


@pytest.mark.parametrize(
    ("name", "files"), [("small", FILES), ("adapted", (*FILES, "adapter_model.safetensors", "adapter_base.json"))]
)
def test_one_set_of_bytes_for_any_number_of_workers_and_killed(fused, tmp_path, name, files):
    found = content(fused.root / f"models/{name}", files)
    assert killed_and_resumed(fused, f"train-{name}", tmp_path / "killed", (1, 3)) == found["model.safetensors"]
    shutil.rmtree(fused.root / f"models/{name}")
    fork_server.start(*(f"glassworks.{entry}" for entry in fused.table[f"train-{name}"].entries))
    assert content(fused.run(f"train-{name}", threads=2, workers=2), files) == found
    last = read_metrics(fused.root / f"models/{name}/metrics.jsonl")[-1]
    assert last["validation_loss"] > 0 and last["validation_z_loss"] > 0
    first = read_metrics(fused.root / f"models/{name}/metrics.jsonl")[0]
    assert first["loss.ctc_audio"] > 0


def test_an_adapted_model_is_published_without_its_base_and_scored_with_it(fused):
    folder = fused.root / "models/adapted"
    from safetensors.torch import load_file

    assert all(name.startswith("fusion.") for name in load_file(folder / "model.safetensors"))
    assert json.loads((folder / "adapter_base.json").read_text())["quantisation"] == "nf4"
    model = load_fused_decoder(folder, fused.root / "models/base").eval()
    assert not any("lora" in name for name, _ in model.named_parameters())
    run = describe(fused.context("train-adapted", fused.root / "again"))
    built = run.task.build()
    run.start(built)
    assert built.decoder.tokens.weight.shape == model.decoder.tokens.weight.shape
    (fused.root / "models/base/manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="adapter of the base"):
        load_fused_decoder(folder, fused.root / "models/base")


@pytest.mark.parametrize("name", ["small", "adapted"])
def test_the_scores_are_those_of_samples_with_every_modality_for_any_number_of_workers(fused, name):
    files = ("metrics.json", "items.jsonl", "labels.json")
    found = content(fused.run(f"evaluate-{name}-transcription"), files)
    shutil.rmtree(fused.root / f"results/{name}")
    fork_server.start(*(f"glassworks.{entry}" for entry in fused.table[f"evaluate-{name}-transcription"].entries))
    folder = fused.run(f"evaluate-{name}-transcription", workers=2)
    assert content(folder, files) == found
    metrics = json.loads(found["metrics.json"])
    assert metrics["samples"] == 5, "two of seven lack a picture"
    assert [*metrics["systems"]] == ["all", "audio", "image", "none", "shuffled"]
    assert metrics["systems"]["none"]["wer"]["value"] > 0
    items = [json.loads(line) for line in found["items.jsonl"].splitlines()]
    assert len({item["none"] for item in items}) == 1, "nothing tells the samples apart"
    assert {path.suffix for path in (folder / "gallery").iterdir()} == {".png", ".flac"}


def test_a_file_has_the_text_of_its_sample_without_the_other_modalities(fused, tmp_path):
    written = (fused.run("evaluate-adapted-transcription") / "items.jsonl").read_text()
    items = [json.loads(line) for line in written.splitlines()]
    record = next(record for record in RECORDS if record.key == items[0]["key"])
    files = []
    for name, extension in (("audio", "flac"), ("image", "png")):
        files.append(tmp_path / f"{name}.{extension}")
        files[-1].write_bytes(media(record)[extension])
    shown, notes = [], []
    model, settings = fused.root / "models/adapted", Decoding(max_new_tokens=8)
    transcribe.run(model, files, settings, True, shown.append, notes.append, fused.root)
    found = [json.loads(line) for line in shown]
    assert [one["text"] for one in found] == [items[0]["audio"], items[0]["image"]] and not notes
    with pytest.raises(ArtifactError, match="this model transcribes nothing; the task fusion trains those that do"):
        transcribe.run(fused.root / "models/base", files, settings, True, shown.append, notes.append, fused.root)
    (tmp_path / "text.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match=r"text\.wav"):
        transcribe.run(model, [tmp_path / "text.wav"], settings, True, shown.append, notes.append, fused.root)


def test_the_loss_is_that_of_the_text_alone_and_a_sum_over_micro_batches(fused):
    run = describe(fused.context("train-small", fused.root / "again"))
    task, model = run.task, run.task.build().eval()
    samples = task.arrange(load_dataset(fused, "train"))
    examples = [task.example(samples[index], SimpleNamespace(loss_weight=0.5), index) for index in range(6)]
    whole = task.loss(model, task.collate(examples))
    parts = [task.loss(model, task.collate(some)) for some in (examples[:2], examples[2:])]
    assert whole.weight == sum(len(example.ids) - 1 for example in examples) == sum(one.weight for one in parts)
    torch.testing.assert_close(whole.total, sum(one.total for one in parts))
    terms = {name: value.item() for name, (value, _) in whole.parts.items()}
    plain = task.validate(model, task.collate(examples))["loss"][0]
    assert terms["cross_entropy"] == pytest.approx(plain / 2, rel=1e-5) and terms["ctc_audio"] > 0
    assert examples[0].ids[-1] == task.tokenizer.eos and examples[0].ids[0] == task.tokenizer.bos
    assert [bool(example.features["image"]["present"]) for example in examples[:5]] == [False, True, True, True, False]


def load_dataset(project, split):
    from glassworks.data.reading.dataset import ShardDataset

    return ShardDataset(project.root / "data/shards/spoken", split)


def test_hidden_modalities_leave_one_that_the_sample_has():
    present = torch.tensor([[True, True], [True, True], [False, True], [False, False]])
    draws = torch.tensor([[0.1, 0.2], [0.1, 0.9], [0.0, 0.1], [0.9, 0.9]])
    features = {name: {"present": present[:, index]} for index, name in enumerate(("audio", "image"))}
    found = without_some(features, draws, 0.5)
    assert found["audio"]["present"].tolist() == [False, False, False, False]
    assert found["image"]["present"].tolist() == [True, True, True, False]
    assert without_some(features, draws, 0.05)["audio"]["present"].tolist() == present[:, 0].tolist()


def test_features_of_another_encoder_than_the_model_was_trained_on_are_refused(fused):
    changed = {**PARAMS, "encoders": {**PARAMS["encoders"], "eye": {**PARAMS["encoders"]["eye"], "image_size": 40}}}
    fused.configure(changed, base=BASE, small=SMALL)
    fused.run("features-eye-spoken")
    with pytest.raises(ArtifactError, match=r"as it is now, but the model was trained on others of 'eye' as 'image'; train it again$"):  # fmt: skip
        fused.run("evaluate-small-transcription")


def with_model(experiment=SMALL, **changes):
    return {**experiment, "model": {**experiment["model"], **changes}}


@pytest.mark.parametrize(
    ("experiment", "line"),
    [
        (with_model(towers={}), "model.towers"),
        (with_model(ADAPTED, max_tokens=None), "max_tokens: published weights allow long texts; write the longest"),
        (with_model(adapter={"rank": 2}), "adapter: name the trained model in language_model"),
        (with_model(language_model="base", max_tokens=30), "give either decoder or language_model, not both"),
        (with_model(ADAPTED, adapter=None), "base_dtype: nf4 is for frozen weights under an adapter; remove it"),
        (with_model(ADAPTED, base_dtype="bf16"), "base_dtype: bf16 needs training.precision: bf16"),
        ({**ADAPTED, "data": {"dataset": "spoken"}}, "reads its tokens; write {of: base}"),
        ({**SMALL, "training": {**SMALL["training"], "neftune": 1.0}}, "neftune: the task fusion has no noise; remove it"),
        ({**SMALL, "training": {**SMALL["training"], "ctc": {"sound": 1.0}}}, "training.ctc: there is no tower 'sound'"),
        (with_model(towers={**TOWERS, "image": {"encoder": "eyes"}}), "params.yaml has no encoder 'eyes'; did you mean 'eye'?"),
    ],
)  # fmt: skip
def test_faults_in_the_settings_are_one_line_each(project, experiment, line):
    with pytest.raises(ConfigError) as error:
        project.configure(PARAMS, base=BASE, fused=experiment)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_more_tokens_than_the_decoder_has_positions_are_refused(fused):
    fused.configure(PARAMS, base=BASE, small=with_model(fusion={"kind": "concatenation"}, max_tokens=50))
    with pytest.raises(ConfigError, match=r"^model\.max_tokens: 50 tokens of a text and 19 tokens of its modalities exceed the 60 positions"):  # fmt: skip
        fused.run("train-small")
