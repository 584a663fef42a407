"""Alignment on frozen encoders: stored features give the bytes of the encoders in the loop, and features of other encoders or data sets are refused."""

import json
import shutil

import pytest
import torch

from glassworks.encoders.tower import Tower
from glassworks.errors import ArtifactError, ConfigError, DataError
from glassworks.pipeline.freshness import Keys
from glassworks.runtime import fork_server
from glassworks.runtime.launch import run_workers
from glassworks.stages.train import describe
from glassworks.training.loop import make_trainer
from glassworks.training.metrics_log import read_metrics
from glassworks.training.validation import validate

from ..conftest import SmallProject
from ..tiny_towers import image_tower, text_tower

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 70, 220), "grey": (128, 128, 128)}
PARAMS = {
    "datasets": {"pictures": {"source": "folder", "path": "pictures", "samples_per_shard": 5}},
    "weights": {
        "cnn": {"source": "local", "path": "cnn"},
        "other_cnn": {"source": "local", "path": "other_cnn"},
        "bert": {"source": "local", "path": "bert"},
    },
    "encoders": {
        "eye": {"encoder": "timm_image", "weights": "cnn", "image_size": 32, "batch_size": 4},
        "reader": {"encoder": "sentence", "weights": "bert", "max_tokens": 8, "batch_size": 4},
    },
}
EXPERIMENT = {
    "task": "alignment",
    "data": {"dataset": "pictures"},
    "model": {"width": 8, "dropout": 0.2, "towers": {"image": {"encoder": "eye"}, "text": {"encoder": "reader"}}},
    "optimization": {"warmup_steps": 1, "learning_rate": 0.01},
    "training": {"steps": 4, "batch_size": 8, "micro_batches": 4, "validate_every": 2, "digest_every": 1},
    "evaluations": {"retrieval": {"bootstrap": 100, "batch_size": 3}},
}
MODEL_FILES = ("model.safetensors", "config.json", "metrics.jsonl", "digests.jsonl")


def with_towers(**towers):
    """The experiment with other settings of its towers."""
    plain = EXPERIMENT["model"]["towers"]
    return {**EXPERIMENT, "model": {**EXPERIMENT["model"], "towers": {n: plain[n] | towers.get(n, {}) for n in plain}}}


LOOP = with_towers(image={"features": "loop"}, text={"features": "loop"})


def encoders(**changes):
    """The parameters with other settings of encoders."""
    return {**PARAMS, "encoders": {name: {**one, **changes.get(name, {})} for name, one in PARAMS["encoders"].items()}}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A project with 28 pictures, two small encoders, and the experiments `stored` and `loop`; everything before training has run."""
    from PIL import Image

    project = SmallProject(tmp_path_factory.mktemp("aligned"))
    (project.root / "pictures").mkdir()
    rows = ["file,caption,split"]
    for index in range(28):
        name, colour = list(COLOURS.items())[index % 4]
        size = 32 if index % 3 else 20  # some are resized, so tensors in memory differ in layout
        image = Image.new("RGB", (size, size), colour)
        image.putpixel((index % size, index // size), (255, 255, 255))
        image.save(project.root / f"pictures/{index:03d}.png")
        split = {0: "validation", 1: "test"}.get(index // 6, "train")
        rows.append(f"{index:03d}.png,{'a ' * (index % 5)}{name} square,{split}")
    (project.root / "pictures/captions.csv").write_text("\n".join(rows))
    image_tower(project.root / "cnn")
    image_tower(project.root / "other_cnn", seed=1)
    text_tower(project.root / "bert")
    table = project.configure(PARAMS, stored=EXPERIMENT, loop=LOOP)
    for stage in table:
        if stage.kind not in ("train", "evaluate", "report"):
            build(project, stage.name)
    return project


@pytest.fixture
def aligned(prepared, tmp_path):
    """A copy of the project."""
    return prepared.copy(tmp_path / "project")


def build(project, name):
    for job in range(project.table[name].jobs):
        project.run_job(name, job)
    return project.run(name)


def content(folder, names=MODEL_FILES):
    return {name: (folder / name).read_bytes() for name in names}


def test_training_depends_on_the_features_that_it_reads(project):
    table = project.configure(PARAMS, stored=EXPERIMENT, loop=LOOP, mixed=with_towers(text={"features": "loop"}))
    assert table["features-eye-pictures"].inputs == {"shards": "shards-pictures", "weights": "weights-cnn"}
    features = {"features.image": "features-eye-pictures", "features.text": "features-reader-pictures"}
    assert table["train-stored"].inputs == {"shards": "shards-pictures", **features}
    weights = {"weights.image": "weights-cnn", "weights.text": "weights-bert"}
    assert table["train-loop"].inputs == {"shards": "shards-pictures", **weights}
    assert table["train-mixed"].inputs == {
        "shards": "shards-pictures",
        "features.image": "features-eye-pictures",
        "weights.text": "weights-bert",
    }
    for name in ("stored", "loop"):
        inputs = table[f"evaluate-{name}-retrieval"].inputs
        assert inputs == {"model": f"train-{name}", "shards": "shards-pictures", **features}
    assert [name for name in table.stages if name.startswith("features")] == [*features.values()]
    assert not [n for n in project.configure(PARAMS, loop={**LOOP, "evaluations": {}}).stages if n.startswith("feat")]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_stored_features_end_with_the_bytes_of_the_encoders_in_the_loop(aligned, precision):
    """For one worker and two, and for features rounded to another type."""
    training = {**EXPERIMENT["training"], "precision": precision}
    table = aligned.configure(
        encoders(eye={"dtype": "float16"}),
        stored={**EXPERIMENT, "training": training},
        loop={**LOOP, "training": training},
    )
    build(aligned, "features-eye-pictures")
    found = [content(aligned.run("train-stored"))]
    found.append(content(aligned.run("train-loop")))
    fork_server.start(*(f"glassworks.{entry}" for entry in table["train-loop"].entries))
    for name in ("train-stored", "train-loop"):
        shutil.rmtree(aligned.root / table[name].directory)
        found.append(content(aligned.run(name, threads=2, workers=2)))
    assert found[0] == found[1] == found[2] == found[3]
    results = [
        content(aligned.run(f"evaluate-{n}-retrieval"), ("metrics.json", "items.jsonl")) for n in ("stored", "loop")
    ]
    results.append(content(aligned.run("evaluate-stored-retrieval", workers=2), ("metrics.json", "items.jsonl")))
    assert results[0] == results[1] == results[2]
    saved = json.loads(found[0]["config.json"])
    assert saved["towers"]["image"]["width"] == 64 and saved["towers"]["image"]["settings"]["dtype"] == "float16"


def test_features_have_one_manifest_for_any_number_of_jobs(aligned):
    manifest = aligned.root / "data/features/eye/pictures/manifest.json"
    by_two = manifest.read_bytes()
    counts = json.loads(by_two)["counts"]
    assert counts["samples"] == {"train": 16, "validation": 6, "test": 6} and counts["width"] == 64
    aligned.configure(encoders(eye={"jobs": 1}), stored=EXPERIMENT)
    assert Keys(aligned.table).fresh()["features-eye-pictures"]
    shutil.rmtree(manifest.parent)
    build(aligned, "features-eye-pictures")
    assert manifest.read_bytes() == by_two
    shutil.rmtree(manifest.parent)
    aligned.run("features-eye-pictures")  # without jobs
    assert manifest.read_bytes() == by_two


def test_samples_encoded_alone_or_together_in_batches_of_64_have_one_manifest(aligned, monkeypatch):
    """Every batch has the shape of 64 samples, however many of them are real."""
    aligned.configure(encoders(eye={"batch_size": 64}), stored=EXPERIMENT)
    together = (build(aligned, "features-eye-pictures") / "manifest.json").read_bytes()
    shutil.rmtree(aligned.root / "data/features/eye/pictures")
    original, sizes = Tower.features_of, []

    def one_at_a_time(self, readings, device="cpu"):
        sizes.append(len(readings))
        parts = [original(self, [reading], device) for reading in readings]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    monkeypatch.setattr(Tower, "features_of", one_at_a_time)
    assert (aligned.run("features-eye-pictures") / "manifest.json").read_bytes() == together
    assert sum(sizes) == 28 and max(sizes) == 5, "those of a shard"


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({"eye": {"weights": "other_cnn"}}, "eye"),
        ({"eye": {"dtype": "bfloat16"}}, "eye"),
        ({"eye": {"image_size": 40}}, "eye"),
        ({"eye": {"layer": -2}}, "eye"),
        ({"eye": {"batch_size": 2}}, "eye"),
        ({"reader": {"pooling": "none"}}, "reader"),
        ({"reader": {"max_tokens": 6}}, "reader"),
        ({"reader": {"jobs": 3}}, None),
    ],
)
def test_another_encoder_makes_its_features_and_their_followers_stale_and_nothing_else(aligned, changes, stale):
    aligned.configure(PARAMS, stored=EXPERIMENT)
    aligned.run("train-stored")
    aligned.run("evaluate-stored-retrieval")
    before = Keys(aligned.table).fresh()
    assert [name for name, key in before.items() if not key] == ["report"]
    aligned.configure(encoders(**changes), stored=EXPERIMENT)
    followers = [f"features-{stale}-pictures", "train-stored", "evaluate-stored-retrieval"] if stale else []
    assert [name for name, key in Keys(aligned.table).fresh().items() if not key] == [*followers, "report"]


def put(aligned, features, place):
    """Put an artefact where that of another stage belongs."""
    target = aligned.root / f"data/features/{place}"
    shutil.rmtree(target)
    shutil.copytree(aligned.root / f"data/features/{features}", target)


def test_features_of_another_encoder_are_refused(aligned):
    put(aligned, "reader/pictures", "eye/pictures")
    with pytest.raises(
        ArtifactError, match=r"eye/pictures: features of the encoder 'reader', but model\.towers\.image"
    ) as error:
        aligned.run("train-stored")
    assert str(error.value).endswith("is 'eye'; make features-eye-pictures")


def test_features_of_another_encoder_than_the_model_was_trained_on_are_refused(aligned):
    aligned.run("train-stored")
    table = aligned.configure(encoders(eye={"image_size": 40}), stored=EXPERIMENT)
    build(aligned, "features-eye-pictures")
    stage = table["evaluate-stored-retrieval"]
    with pytest.raises(ArtifactError, match="but the head 'image' was trained on others of 'eye'; train it again"):
        aligned.run(stage.name)


def test_features_of_another_data_set_are_refused(aligned):
    both = {**PARAMS, "datasets": {**PARAMS["datasets"], "more": {"source": "folder", "path": "more"}}}
    shutil.copytree(aligned.root / "pictures", aligned.root / "more")
    (aligned.root / "more/007.png").write_bytes((aligned.root / "more/010.png").read_bytes())
    aligned.configure(both, stored=EXPERIMENT, more={**EXPERIMENT, "data": {"dataset": "more"}})
    for name in ("fetch-more", "records-more", "shards-more", "features-eye-more"):
        build(aligned, name)
    put(aligned, "eye/more", "eye/pictures")
    line = r"shards/pictures: the features of 'image' were not made from these shards, but are eye of more; make"
    with pytest.raises(DataError, match=line):
        aligned.run("train-stored")


def test_altered_features_are_refused(aligned):
    file = aligned.root / "data/features/eye/pictures/train-00001.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.unlink()
    file.write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"train-00001\.safetensors: altered since it was written; check"):
        aligned.run("train-stored")


TOKENS = encoders(eye={"pooling": "none", "dtype": "float16", "layer": -2})
RESAMPLED = {
    **EXPERIMENT["model"],
    "widths": [8, 4],
    "perceiver": {"latents": 3, "depth": 1, "heads": 2, "head_width": 4},
    "towers": {"image": {"encoder": "eye", "head": "perceiver"}, "text": {"encoder": "reader"}},
}


def test_a_perceiver_reads_the_tokens_of_a_map_beside_a_head_of_pooled_texts(aligned):
    """Stored tokens give the bytes of the encoder in the loop, for one worker and two. An alignment that continues has the trained resampler."""
    loop = {name: {**tower, "features": "loop"} for name, tower in RESAMPLED["towers"].items()}
    table = aligned.configure(
        TOKENS,
        stored={**EXPERIMENT, "model": RESAMPLED},
        loop={**EXPERIMENT, "model": {**RESAMPLED, "towers": loop}},
        again={**EXPERIMENT, "model": {"from": "stored"}},
    )
    build(aligned, "features-eye-pictures")
    found = [content(aligned.run("train-stored")), content(aligned.run("train-loop"))]
    fork_server.start(*(f"glassworks.{entry}" for entry in table["train-loop"].entries))
    shutil.rmtree(aligned.root / table["train-stored"].directory)
    found.append(content(aligned.run("train-stored", threads=2, workers=2)))
    assert found[0] == found[1] == found[2]
    saved = json.loads(found[0]["config.json"])
    assert saved["towers"]["image"]["tokens"] == 4 and saved["towers"]["image"]["head"] == "perceiver"
    assert "tokens" not in saved["towers"]["text"] and saved["perceiver"]["latents"] == 3
    metrics = json.loads((aligned.run("evaluate-stored-retrieval") / "metrics.json").read_text())
    assert {"model", "width_4", "ridge", "asif"} <= metrics["systems"].keys()
    aligned.run("train-again")
    assert not start_of(aligned, "again")["new"] and start_of(aligned, "again")["matched"] > 10


@pytest.mark.parametrize(
    ("params", "towers", "line"),
    [
        (TOKENS, {}, "model.towers.image.encoder: 'eye' gives tokens, which only a perceiver reads; name an encoder with pooling: mean, or set head: perceiver"),
        (PARAMS, {"image": {"head": "perceiver"}}, "model.towers.image.encoder: a perceiver reads tokens, which 'eye' does not give; name an encoder with pooling: none, or set another head"),
        (encoders(reader={"pooling": "none"}), {"text": {"head": "perceiver"}}, "model.towers.text.encoder: a perceiver reads tokens, which 'reader' does not give"),
    ],
)  # fmt: skip
def test_a_head_that_cannot_read_the_features_of_its_encoder_is_one_line_before_any_work(project, params, towers, line):
    with pytest.raises(ConfigError) as refused:
        project.configure(params, stored=with_towers(**towers))
    assert f"experiments/stored.yaml: {line}" in str(refused.value) and "\n" not in str(refused.value)


def test_a_perceiver_on_mixed_features_is_one_line(project):
    mixing = {**EXPERIMENT, "model": RESAMPLED, "training": {**EXPERIMENT["training"], "mixup": 1}}
    with pytest.raises(
        ConfigError, match=r"training\.mixup mixes vectors, and a perceiver reads tokens; remove one of them$"
    ):
        project.configure(TOKENS, stored=mixing)


def test_the_shape_of_a_perceiver_without_one_is_one_line(project):
    model = {**EXPERIMENT["model"], "perceiver": {"latents": 2}}
    with pytest.raises(
        ConfigError, match=r"model\.perceiver: no head is a perceiver; set model\.head: perceiver, or remove the key$"
    ):
        project.configure(PARAMS, stored={**EXPERIMENT, "model": model})


@pytest.mark.parametrize(
    ("params", "towers", "line"),
    [
        (
            PARAMS,
            {"image": {"encoder": "eyes"}},
            "stored.yaml: model.towers.image.encoder: params.yaml has no encoder 'eyes'; did you mean 'eye'?",
        ),
        (
            encoders(eye={"weights": "cmn"}),
            {},
            "params.yaml: encoders.eye.weights: there are no weights 'cmn'; did you mean 'cnn'?",
        ),
        (encoders(eye={"pooling": "max"}), {}, "params.yaml: encoders.eye.pooling: unknown value 'max'"),
    ],
)
def test_faults_in_the_settings_are_one_line_each(project, params, towers, line):
    with pytest.raises(ConfigError) as error:
        project.configure(params, stored=with_towers(**towers))
    assert line in str(error.value) and "\n" not in str(error.value)


def test_an_experiment_names_two_towers(project):
    with pytest.raises(
        ConfigError,
        match=r"stored\.yaml: \(top level\): model\.towers: name at least two encoders, by modality; there are 0$",
    ):
        project.configure(PARAMS, stored={**EXPERIMENT, "model": {"width": 8}})


def test_two_data_sets_have_features_of_their_own(aligned):
    both = {**PARAMS, "datasets": {**PARAMS["datasets"], "more": {"source": "folder", "path": "more"}}}
    shutil.copytree(aligned.root / "pictures", aligned.root / "more")
    mixture = {"train": [{"dataset": "pictures", "rate": 0.5}, {"dataset": "more", "rate": 0.5}]}
    table = aligned.configure(both, stored={**EXPERIMENT, "data": mixture})
    for stage in table:
        if stage.kind not in ("train", "evaluate", "report"):
            build(aligned, stage.name)
    assert table["train-stored"].inputs["features.image.more"] == "features-eye-more"
    assert table["evaluate-stored-retrieval"].inputs["features.image"] == "features-eye-pictures"
    rows = [json.loads(line) for line in (aligned.run("train-stored") / "metrics.jsonl").read_text().splitlines()]
    assert "validation_loss.more" in rows[-1]


def test_heads_learn_which_text_belongs_to_which_picture(aligned):
    """Four colours and up to four words before them: far better than chance on the training pictures."""
    long = {
        **EXPERIMENT,
        "training": {**EXPERIMENT["training"], "steps": 60},
        "evaluations": {"retrieval": {"split": "train"}},
    }
    aligned.configure(PARAMS, stored=long)
    aligned.run("train-stored")
    metrics = json.loads((aligned.run("evaluate-stored-retrieval") / "metrics.json").read_text())
    found, control = (metrics["systems"][name]["image_to_text"]["recall@5"] for name in ("model", "shuffled"))
    assert metrics["samples"] == 16 and found["low"] > control["high"]


def _validated(workers, stop, context):
    run = describe(context)
    trainer = make_trainer(run, workers)
    return validate(trainer.model, run.task, run.held_out, trainer.precision, workers, 0)


FURTHER = {"image": {"encoder": "eye"}, "text": {"encoder": "reader"}, "second": {"encoder": "other_eye"}}
SECOND_EYE = {
    **PARAMS,
    "encoders": {**PARAMS["encoders"], "other_eye": {**PARAMS["encoders"]["eye"], "weights": "other_cnn"}},
}


def start_of(project, name):
    return json.loads((project.root / f"provenance/train-{name}.json").read_text())["start"]


def test_an_alignment_continues_another_and_may_have_further_and_fewer_towers(aligned, tmp_path):
    """Before its first step it has the last validation of the first, bit for bit. A head of a further tower is new, one without a tower is left over."""
    again = {**EXPERIMENT, "model": {"from": "stored"}}
    further = {
        **EXPERIMENT,
        "model": {"from": "stored", "towers": FURTHER, "pairs": [["image", "text"], ["second", "text"]]},
    }
    fewer = {
        **EXPERIMENT,
        "model": {"from": "further", "towers": EXPERIMENT["model"]["towers"], "pairs": [], "loss": "sigmoid"},
    }
    table = aligned.configure(SECOND_EYE, stored=EXPERIMENT, again=again, further=further, fewer=fewer)
    assert table["train-again"].inputs["start"] == "train-stored"
    assert table["train-further"].params["model"]["width"] == 8
    build(aligned, "features-other_eye-pictures")
    stored = aligned.run("train-stored")

    context = aligned.context("train-again", tmp_path / "work")
    before = run_workers(_validated, context, count=1, device="cpu", folder=tmp_path / "workers")
    last = [row for row in read_metrics(stored / "metrics.jsonl") if "validation_loss" in row][-1]
    assert before == {name: value for name, value in last.items() if name != "step"}

    aligned.run("train-further")
    note = start_of(aligned, "further")
    assert note["new"] and all(name.startswith("heads.second.") for name in note["new"]) and not note["left_over"]
    aligned.run("train-fewer")
    note = start_of(aligned, "fewer")
    assert [*note["new"]] == ["bias"] and {name.split(".")[1] for name in note["left_over"]} == {"second"}


def test_an_evaluation_may_compare_some_of_the_towers_and_needs_no_features_of_others(aligned):
    model = {**EXPERIMENT["model"], "towers": FURTHER, "pairs": [["image", "text"], ["second", "text"]]}
    some = {"retrieval": {"bootstrap": 100, "towers": ["image", "second"]}}
    table = aligned.configure(SECOND_EYE, stored={**EXPERIMENT, "model": model, "evaluations": some})
    build(aligned, "features-other_eye-pictures")
    assert "features.text" not in table["evaluate-stored-retrieval"].inputs
    aligned.run("train-stored")
    metrics = json.loads((aligned.run("evaluate-stored-retrieval") / "metrics.json").read_text())
    assert metrics["systems"]["model"].keys() == {"image_to_second", "second_to_image"} == {*metrics["emergent"]}


@pytest.mark.parametrize(
    ("towers", "line"),
    [
        (["image", "tekst"], "experiments/stored.yaml: evaluations.retrieval.towers: there is no tower 'tekst'; did you mean 'text'?"),
        (["image"], "experiments/stored.yaml: evaluations.retrieval.towers: name at least two"),
    ],
)  # fmt: skip
def test_towers_that_an_evaluation_cannot_compare_are_one_line(project, towers, line):
    with pytest.raises(ConfigError) as refused:
        project.configure(PARAMS, stored={**EXPERIMENT, "evaluations": {"retrieval": {"towers": towers}}})
    assert str(refused.value) == line


def test_a_head_that_does_not_fit_is_one_line(aligned):
    aligned.run("train-stored")
    other = {**EXPERIMENT, "model": {"from": "stored", "towers": {**FURTHER, "image": {"encoder": "other_eye"}}}}
    aligned.configure(SECOND_EYE, stored=EXPERIMENT, other=other)
    build(aligned, "features-other_eye-pictures")
    line = r"^model\.from: \S+stored: its head 'image' was trained on features of another encoder \(weights\) than model\.towers\.image; give .*$"
    with pytest.raises(ArtifactError, match=line):
        aligned.run("train-other")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ({"from": "stored", "width": 16}, "experiments/later.yaml: model.width: 16, but 'stored', from which it continues, has 8; remove this key"),
        ({"from": "stord"}, "model.from: params.yaml lists no other alignment experiment called 'stord'; did you mean 'stored'?"),
    ],
)  # fmt: skip
def test_another_shape_than_that_of_the_alignment_to_continue_is_one_line(project, model, line):
    towers = {} if model["from"] == "stored" else {"towers": EXPERIMENT["model"]["towers"]}
    with pytest.raises(ConfigError) as refused:
        project.configure(PARAMS, stored=EXPERIMENT, later={**EXPERIMENT, "model": {**model, **towers}})
    assert line in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda tensors: tensors.pop("heads.image.project.weight"),
            r"model\.safetensors: missing heads\.image\.project\.weight$",
        ),
        (
            lambda tensors: tensors.update({"heads.text.norm.bias": tensors["heads.text.norm.bias"][:2].clone()}),
            r"model\.safetensors: heads\.text\.norm\.bias is \[2\], not \[6\]$",
        ),
    ],
)
def test_missing_and_misshapen_tensors_of_a_shared_head_are_one_line(tmp_path, damage, line):
    from glassworks.models import saving
    from glassworks.models.alignment import Alignment
    from glassworks.models.begin_alignment import begin_alignment
    from glassworks.models.settings.alignment import Alignment as Heads

    model = Alignment(Heads(width=4), {"image": {"width": 5}, "text": {"width": 6}})
    model.save(tmp_path)
    tensors = saving.read_tensors(tmp_path / saving.WEIGHTS)
    damage(tensors)
    saving.save_tensors(tensors, tmp_path / saving.WEIGHTS)
    with pytest.raises(ArtifactError, match=f"^model\\.from: .*{line}"):
        begin_alignment(model, tmp_path)
