"""Every wrong key or value is refused before any job starts, in a line that says where, what and what is allowed."""

import re
from pathlib import Path

import pytest

from glassworks.config.needs import Shards
from glassworks.config.optimization import Optimization
from glassworks.config.project import SCHEMAS, load_project, schema_text
from glassworks.config.reference import reference_text
from glassworks.config.renames import RELATED, RENAMED
from glassworks.config.training import Training
from glassworks.errors import ConfigError
from glassworks.training.schedules import learning_rate

REPOSITORY = Path(__file__).resolve().parents[2]
PARAMS = """
seed: 1
datasets:
  drawings: {source: openmoji}
  scenes: {source: scenes, sprites: drawings, samples: {train: 10}}
experiments: [first]
"""
EXPERIMENT = """
task: captioning
data: {dataset: scenes}
training: {steps: 4}
"""


def load(root: Path, params: str = PARAMS, experiment: str = EXPERIMENT):
    (root / "experiments").mkdir(exist_ok=True)
    (root / "params.yaml").write_text(params)
    (root / "experiments/first.yaml").write_text(experiment)
    return load_project(root)


def test_the_projects_own_configuration_is_valid():
    assert load_project(REPOSITORY).experiments


def test_defaults_are_filled_in(tmp_path):
    project = load(tmp_path)
    assert project.params.datasets["drawings"].size == 128
    assert project.experiments["first"].training.micro_batches == 4


@pytest.mark.parametrize(
    ("params", "line"),
    [
        (PARAMS.replace("seed:", "sede:"), "params.yaml: sede: unknown key; did you mean 'seed'?"),
        (
            PARAMS.replace("source: openmoji", "source: openmojy"),
            "params.yaml: datasets.drawings.source: unknown value 'openmojy'; did you mean 'openmoji'?",
        ),
        (PARAMS.replace("source: openmoji", "size: 64"), "params.yaml: datasets.drawings.source: this key is required"),
        (
            PARAMS.replace("samples: {train", "samples: {trian"),
            "params.yaml: datasets.scenes.samples.trian.[key]: unknown value 'trian'; did you mean 'train'?",
        ),
        (
            PARAMS.replace("source: openmoji", "source: openmoji, siz: 64"),
            "params.yaml: datasets.drawings.siz: unknown key; did you mean 'size'?",
        ),
        (
            PARAMS.replace("source: openmoji", "source: openmoji, size: '64'"),
            "params.yaml: datasets.drawings.size: should be a valid integer (given: '64')",
        ),
        (
            PARAMS.replace("sprites: drawings", "sprites: drawing"),
            "no dataset of source openmoji is called 'drawing'; did you mean 'drawings'?",
        ),
        (PARAMS.replace("[first]", "[frist]"), "there is no experiments/frist.yaml; did you mean 'first'?"),
        (PARAMS.replace("[first]", "[first, first]"), "params.yaml: experiments.1: 'first' is listed twice"),
        (PARAMS.replace("seed: 1", "seed: 1\nseed: 2"), "params.yaml:3: the key 'seed' stands twice"),
        (PARAMS.replace("[first]", "[report]"), "'report' is the name of the report's own folder"),
        ("- a list", "params.yaml: expected a mapping"),
        ("seed: [", "params.yaml:"),
    ],
)
def test_a_fault_in_params_is_one_clear_line(tmp_path, params, line):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, params)
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("experiment", "line"),
    [
        (
            EXPERIMENT.replace("dataset: scenes", "dataset: scene"),
            "experiments/first.yaml: data.dataset: params.yaml has no dataset 'scene'; did you mean 'scenes'?",
        ),
        (
            EXPERIMENT.replace("steps: 4", "steps: 4, micro_batches: 3"),
            "training: micro_batches 3 is not a power of two; use 2 or 4",
        ),
        (
            EXPERIMENT + "optimization: {warmup_steps: 5}\n",
            "optimization.warmup_steps: 5 is longer than the run of 4 steps",
        ),
        (
            EXPERIMENT + "optimization: {groups: {late: {parameters: ['*'], train_from: 4}}}\n",
            "optimization.groups.late.train_from: 4 is beyond the end of the run of 4 steps",
        ),
        (
            EXPERIMENT + "optimization: {groups: {early: {parameters: ['*'], train_until: 9}}}\n",
            "optimization.groups.early.train_until: 9 is beyond the end of the run of 4 steps",
        ),
        (
            EXPERIMENT + "optimization: {warmup_steps: 4, groups: {late: {parameters: ['*'], train_from: 2}}}\n",
            "groups.late.warmup_steps: 4 (of optimization.warmup_steps) is longer than the 2 steps that train the group",
        ),
        (
            EXPERIMENT + "optimization: {schedule: wsd, warmup_steps: 2, decay_steps: 3}\n",
            "optimization.decay_steps: 3 and 2 warm-up steps are more than the run of 4 steps; use at most 2",
        ),
        (EXPERIMENT + "optimization: {learning_rate: .inf}\n", "learning_rate: should be a finite number"),
        (
            EXPERIMENT.replace("steps: 4", "steps: 4, passes: 2"),
            "training: give either `steps`, or `passes` over the training data",
        ),
        (EXPERIMENT.replace("steps: 4", "batch_size: 8"), "training: give either `steps`, or `passes`"),
        (
            EXPERIMENT.replace("steps: 4", "steps: 4, selection: {metric: validation_los}"),
            "training.selection.metric: this task has no 'validation_los'; did you mean 'validation_loss'?",
        ),
        (
            EXPERIMENT.replace("dataset: scenes", "dataset: scenes, held_out: {}").replace(
                "steps: 4", "steps: 4, selection: {patience: 2}"
            ),
            "training.selection.patience needs validation data, and data.held_out lists none",
        ),
        (
            EXPERIMENT.replace("steps: 4", "steps: 4, compile: true").replace(
                "dataset: scenes", "dataset: scenes, tokenizer: {of: second}"
            )
            + "model: {language_model: second}\n",
            "model.max_tokens: compile: true pads every caption to it",
        ),
        (EXPERIMENT + "execution: {nodes: 3}\n", "execution: nodes 3 is not a power of two"),
        (EXPERIMENT + "execution: {nodes: 8}\n", "execution.nodes 8: training.micro_batches 4 gives work to 4 at most"),
        (
            EXPERIMENT.replace("steps: 4", "steps: 4, batch_size: 6"),
            "training: micro_batches 4 does not divide batch_size 6",
        ),
        (EXPERIMENT + "model: {encoder: {patch_size: 7}}", "model.encoder: patch_size 7 does not divide image_size 72"),
        (
            EXPERIMENT + "optimization: {learning_rate: fast}",
            "optimization.learning_rate: should be a valid number (given: 'fast')",
        ),
        (
            EXPERIMENT + "optimization: {learning_rat: 1e-3}",
            "optimization.learning_rat: unknown key; did you mean 'learning_rate'?",
        ),
        (
            EXPERIMENT + "evaluations: {captons: {}}",
            "evaluations: captons.kind: no evaluation is called 'captons', so this key is required; did you mean 'captions'?",
        ),
        (
            EXPERIMENT + "evaluations: {mine: {kind: caption}}",
            "evaluations.mine.kind: unknown value 'caption'; did you mean 'captions'?",
        ),
        (
            EXPERIMENT + "evaluations: {captions: {beam: 2}}",
            "evaluations.captions.beam: unknown key; did you mean 'beams'?",
        ),
        (
            EXPERIMENT + "evaluations: {language:}",
            "evaluations.language: language scores language_modelling or instruction models, not captioning",
        ),
        (
            EXPERIMENT + "evaluations: {captions: {dataset: scene}}",
            "evaluations.captions.dataset: params.yaml has no dataset 'scene'; did you mean 'scenes'?",
        ),
        (EXPERIMENT.replace("captioning", "caption"), "task: unknown value 'caption'; did you mean 'captioning'?"),
    ],
)
def test_a_fault_in_an_experiment_is_one_clear_line(tmp_path, experiment, line):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, experiment=experiment)
    assert line in str(error.value)


MIXED = """
task: captioning
data: {train: [{dataset: scenes, rate: 0.7, options: {loss_weight: 2.0}}, {group: [{dataset: photos}, {dataset: drawings}], rate: 0.3, rates: sqrt}]}
training: {steps: 4}
"""
WITH_PHOTOS = PARAMS.replace("datasets:", "datasets:\n  photos: {source: folder, path: photos}")


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("rate: 0.7", "rate: 0", "data.train.0.rate: should be greater than 0 (given: 0)"),
        ("rate: 0.7", "rate: .inf", "data.train.0.rate: should be a finite number (given: inf)"),
        ("rate: 0.7, ", "", "data: train: some rates are missing; give a rate to all entries of a list, or to none"),
        ("0.7", "0.0001", "data: train: 'scenes' makes less than 1/1000 of the mixture; raise its rate or remove it"),
        ("{dataset: photos}", "{dataset: scenes}", "data: train: the dataset 'scenes' is listed twice"),
        ("photos}", "photo}", "data.train.1.group.0.dataset: params.yaml has no dataset 'photo'; did you mean 'photos'?"),
        ("loss_weight", "los_weight", "data.train.0.options.los_weight: unknown key; did you mean 'loss_weight'?"),
        ("dataset: scenes", "datset: scenes", "data.train.0.datset: unknown key; did you mean 'dataset'?"),
        ("{dataset: photos}", "{dataset: photos, rate: 2}", "data.train.1: rates: sqrt computes the rates of the group"),
        ("rates: sqrt", "rates: sqr", "data.train.1.rates: unknown value 'sqr'; did you mean 'sqrt'?"),
        ("{train:", "{dataset: scenes, train:", "data: give either `dataset: NAME`, or `train` with a list of datasets"),
        ("{train:", "{held_out: {photo: test}, train:", "data.held_out.photo: params.yaml has no dataset 'photo'"),
        ("{train:", "{held_out: {photos: tset}, train:", "data.held_out.photos: unknown value 'tset'; did you mean 'test'?"),
    ],
)  # fmt: skip
def test_a_fault_in_a_mixture_is_one_clear_line(tmp_path, before, after, line):
    experiment = MIXED.replace(before, after)
    if after == "0.0001":
        experiment = experiment.replace(", rates: sqrt", "")
    with pytest.raises(ConfigError) as error:
        load(tmp_path, WITH_PHOTOS, experiment)
    assert line in str(error.value)
    if "datset" not in after:  # the key that should be there is missing, too
        assert len(str(error.value).splitlines()) == 1


def test_the_rates_of_a_group_may_be_the_square_roots_of_its_rows(tmp_path):
    data = load(tmp_path, WITH_PHOTOS, MIXED).experiments["first"].data
    assert data.datasets == ["scenes", "photos", "drawings"]
    rates = data.rates({"scenes": 10**6, "photos": 400, "drawings": 100})
    assert rates == pytest.approx([0.7, 0.2, 0.1])
    assert data.options_of("scenes").loss_weight == 2 and data.options_of("photos").loss_weight == 1


def test_a_mixture_of_one_dataset_is_that_dataset(tmp_path):
    short = load(tmp_path, PARAMS, EXPERIMENT).experiments["first"].data
    listed = EXPERIMENT.replace("dataset: scenes", "train: [{dataset: scenes, rate: 3}]")
    long = load(tmp_path, PARAMS, listed).experiments["first"].data
    assert long.model_dump(mode="json") == short.model_dump(mode="json")
    assert long.needs() == {"shards": Shards("data.train.0.dataset", "scenes")}


def test_all_faults_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, PARAMS.replace("[first]", "[first, other]"), EXPERIMENT.replace("task", "tsak"))
    assert len(str(error.value).splitlines()) == 3  # no `other`, unknown `tsak`, missing `task`


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    project = load(tmp_path, experiment=EXPERIMENT + "optimization: {learning_rate: 3e-4}")
    assert project.experiments["first"].optimization.learning_rate == 3e-4


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_committed_schemas_are_current(name):
    assert (REPOSITORY / f"schemas/{name}.schema.json").read_text() == schema_text(name), "run `make schemas`"
    assert (REPOSITORY / f"docs/reference/{name}.md").read_text() == reference_text(name), "run `make schemas`"


LANGUAGE = "task: language_modelling\ndata: {dataset: scenes}\ntraining: {steps: 4}\n"
READING = (
    EXPERIMENT.replace("{dataset: scenes}", "{dataset: scenes, tokenizer: {of: NAME}}")
    + "model: {language_model: NAME}\n"
)


def load_two(root: Path, first: str, second: str = LANGUAGE):
    (root / "experiments").mkdir(exist_ok=True)
    (root / "experiments/second.yaml").write_text(second)
    return load(root, PARAMS.replace("[first]", "[first, second]"), first)


def test_an_experiment_may_begin_with_another_ones_model(tmp_path):
    project = load_two(tmp_path, READING.replace("NAME", "second"))
    needs = {need.key: need.name for need in project.experiments["first"].needs().values()}
    assert needs == {"data.dataset": "scenes", "data.tokenizer.of": "second", "model.language_model": "second"}


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        (READING.replace("NAME", "secnod"), LANGUAGE, "model.language_model: params.yaml lists no experiment that fits, nor weights, called 'secnod'"),
        (READING.replace("NAME", "second"), EXPERIMENT, "model.language_model: params.yaml lists no experiment that fits"),
        (READING.replace("NAME", "first"), LANGUAGE, "data.tokenizer.of: params.yaml lists no experiment that fits"),
        (
            READING.replace("of: NAME", "of: first").replace("NAME", "second"),
            LANGUAGE,
            "data.tokenizer: a decoder that begins as second reads its tokens; write {of: second}",
        ),
        (
            LANGUAGE.replace("scenes", "scenes, tokenizer: {of: second}"),
            LANGUAGE.replace("scenes", "scenes, tokenizer: {of: first}"),
            "data.tokenizer.of: 'second' itself reads 'first'",
        ),
        (
            LANGUAGE.replace("scenes", "scenes, tokenizer: {of: second, vocab_size: 300}"),
            LANGUAGE,
            "data.tokenizer: of: a tokenizer that is taken over has its own kind, vocab_size, added_tokens and datasets; remove them",
        ),
        (
            LANGUAGE.replace("scenes", "scenes, tokenizer: {datasets: [scene]}"),
            LANGUAGE,
            "data.tokenizer.datasets: params.yaml has no dataset 'scene'; did you mean 'scenes'?",
        ),
        (
            LANGUAGE.replace("scenes", "scenes, tokenizer: {datasets: [scenes]}"),
            LANGUAGE,
            "tokenizer.datasets: the texts of 'scenes' are read already; remove it",
        ),
        (
            EXPERIMENT + "model: {backbone: {name: resnet18, weights: resnet}}",
            LANGUAGE,
            "model.backbone.weights: params.yaml lists no weights called 'resnet'",
        ),
        (EXPERIMENT + "model: {encoder: {}, backbone: {name: resnet18}}", LANGUAGE, "give either encoder or backbone, not both"),
        (
            LANGUAGE.replace("language_modelling", "language_modeling"),
            LANGUAGE,
            "task: unknown value 'language_modeling'; did you mean 'language_modelling'?",
        ),
        (LANGUAGE + "model: {kv_heads: 3}", LANGUAGE, "model: kv_heads 3 does not divide heads 4"),
        (
            LANGUAGE + "model: {from: secnod}",
            LANGUAGE,
            "model.from: params.yaml lists no other language_modelling experiment called 'secnod'; did you mean 'second'?",
        ),
        (LANGUAGE + "model: {from: first}", LANGUAGE, "model.from: params.yaml lists no other language_modelling experiment called 'first'"),
        (EXPERIMENT + "model: {from: second}", LANGUAGE, "model.from: params.yaml lists no other captioning experiment called 'second'"),
        (LANGUAGE + "model: {adapter: {}}", LANGUAGE, "model: adapter: an adapter of random weights is of no use; name a trained model in `from`, or published weights in `weights`"),
        (
            LANGUAGE.replace("scenes", "scenes, tokenizer: {of: second}") + "model: {from: second}",
            LANGUAGE + "model: {from: third, adapter: {}}",
            "model.from: 'second' is an adapter, not a whole model; name its base",
        ),
        (
            LANGUAGE + "model: {from: second}",
            LANGUAGE,
            "model.from: 'second' has another tokenizer; set data.tokenizer.of: second",
        ),
    ],
)  # fmt: skip
def test_what_an_experiment_reads_must_be_there_and_fit(tmp_path, first, second, line):
    with pytest.raises(ConfigError) as error:
        load_two(tmp_path, first, second)
    assert line in str(error.value)


def test_a_faulty_experiment_that_others_read_is_one_line(tmp_path):
    with pytest.raises(ConfigError) as error:
        load_two(tmp_path, READING.replace("NAME", "second"), LANGUAGE.replace("steps: 4", "stepz: 4, steps: 4"))
    assert str(error.value) == "experiments/second.yaml: training.stepz: unknown key; did you mean 'steps'?"


VARIANTS = EXPERIMENT + "model: {decoder: {dropout: 0.1}}\nvariants: {VARIANT}\n"


def variants(root: Path, text: str, params: str = PARAMS):
    return load(root, params, VARIANTS.replace("VARIANT", text))


def test_variants_are_experiments_with_overridden_settings_and_seeds(tmp_path):
    text = "plain: {seeds: [1, 2]}, thick: {set: {model.decoder.dropout: 0.0, optimization.learning_rate: 1e-2}, seeds: [2]}, last: {set: {training.steps: 8}}"
    project = variants(tmp_path, text, PARAMS.replace("seed: 1", "seed: 5"))
    names = ["first", "first--plain--1", "first--plain--2", "first--thick--2", "first--last"]
    assert list(project.experiments) == names
    assert [project.seed(name) for name in names] == [5, 1, 2, 2, 5]
    thick = project.experiments["first--thick--2"]
    assert (thick.model.decoder.dropout, thick.optimization.learning_rate, thick.training.steps) == (0.0, 0.01, 4)
    assert project.experiments["first"].model.decoder.dropout == 0.1
    assert project.experiments["first--last"].training.steps == 8


def test_a_variant_with_the_settings_and_the_seed_of_its_experiment_is_not_trained_again(tmp_path):
    project = variants(tmp_path, "same: {set: {model.decoder.dropout: 0.1}, seeds: [1, 2]}, alone: {}", PARAMS)
    assert list(project.experiments) == ["first", "first--same--2"]
    assert project.variants == {"first": {"same": [(1, "first"), (2, "first--same--2")], "alone": [(1, "first")]}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "v: {set: {model.decoder.dropot: 0.0}}",
            "variants.v.set: model.decoder.dropot: unknown key; did you mean 'dropout'?",
        ),
        ("v: {set: {modle.decoder.dropout: 0.0}}", "variants.v.set: modle: unknown key; did you mean 'model'?"),
        (
            "v: {set: {model.decoder.dropout: none}}",
            "variants.v.set: model.decoder.dropout: should be a valid number (given: 'none')",
        ),
        ("v: {set: {training.steps.of: 3}}", "variants.v.set: training.steps.of: training.steps is a value, not a section"),
        ("v: {set: {training.micro_batches: 3}}", "variants.v.set: training: micro_batches 3 is not a power of two"),
        ("v: {set: {data.dataset: scene}}", "variants.v.set: data.dataset: params.yaml has no dataset 'scene'; did you mean 'scenes'?"),
        (
            "v: {set: {data.tokenizer.of: second}, seeds: [1, 2]}",
            "variants.v.set: data.tokenizer.of: params.yaml lists no experiment that fits, nor weights, called 'second'",
        ),
        ("v: {set: {evaluations.captions.beams: 2}}", "variants.v.set: evaluations.captions.beams: a variant is scored like its experiment"),
        ("v: {sets: {}}", "variants.v.sets: unknown key; did you mean 'set'?"),
        ("v: {seeds: [1, 1]}", "variants.v.seeds: 1 is listed twice"),
        ("v: {seeds: []}", "variants.v.seeds: "),
        ("v--1: {}", "variants.v--1"),
    ],
)  # fmt: skip
def test_a_fault_in_a_variant_is_one_clear_line(tmp_path, text, line):
    with pytest.raises(ConfigError) as error:
        variants(tmp_path, text)
    assert str(error.value).startswith(f"experiments/first.yaml: {line}")
    assert len(str(error.value).splitlines()) == 1


def test_an_experiment_may_begin_with_a_variant_but_not_with_one_of_its_own(tmp_path):
    second = LANGUAGE + "variants: {wide: {set: {model.width: 256}, seeds: [3]}}\n"
    assert load_two(tmp_path, READING.replace("NAME", "second--wide--3"), second)
    with pytest.raises(ConfigError, match=r"data\.tokenizer\.of: 'second--wide--3' itself reads 'second'"):
        reading = LANGUAGE.replace("scenes", "scenes, tokenizer: {of: second--wide--3}")
        load_two(tmp_path, EXPERIMENT, reading + "variants: {wide: {set: {data.tokenizer: {}}, seeds: [3]}}\n")


def test_selection_by_validation_needs_a_validation_split(tmp_path):
    best = EXPERIMENT.replace("steps: 4", "steps: 4, selection: {publish: best}")
    with pytest.raises(
        ConfigError, match=r"training.selection.publish needs validation data, and scenes in params.yaml leaves none"
    ):
        load(tmp_path, experiment=best)


def test_steps_follow_the_data():
    training = Training(passes=20, batch_size=16)
    assert (training.over(180).steps, training.over(180).validate_every) == (225, 12)
    assert (training.over(9000).steps, training.over(9000).validate_every) == (11250, 563)
    assert Training(passes=0.5, batch_size=16, validate_every=3).over(180).validate_every == 3
    plain = Training(steps=7)
    assert plain.over(180) == plain and plain.validate_every == 200
    assert Training.model_validate(training.model_dump()).over(180) == training.over(180)


@pytest.mark.parametrize(("steps", "expected"), [(6, 0), (90, 9), (1000, 100), (5000, 100)])
def test_the_default_warm_up_follows_the_run(steps, expected):
    rates = [learning_rate(Optimization(learning_rate=1.0, schedule="constant"), step, steps) for step in range(steps)]
    assert sum(rate < 1.0 for rate in rates) == max(0, expected - 1)
    assert Optimization().fault(steps) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optimization: {optimizer: adamw}", "optimization.optimizer: unknown value 'adamw'; did you mean 'AdamW'?"),
        ("optimization: {optimizer: adam}", "optimization.optimizer: unknown value 'adam'; did you mean 'Adam'?"),
        ("optimization: {optimizer: sgd}", "optimization.optimizer: unknown value 'sgd'; did you mean 'SGD'?"),
        ("optimization: {lr: 0.1}", "optimization.lr: unknown key; write learning_rate"),
        ("optimization: {groups: {a: {parameters: [x], lr: 1.0}}}", "groups.a.lr: unknown key; write learning_rate"),
        ("optimization: {max_grad_norm: 1.0}", "optimization.max_grad_norm: unknown key; write clip_norm"),
        ("optimization: {batch: 8}", "optimization.batch: unknown key; write training.batch_size"),
        ("lr: 0.1", "experiments/first.yaml: lr: unknown key; write optimization.learning_rate"),
        ("execution: {num_workers: 2}", "execution.num_workers: unknown key; write loader_workers"),
        ("model: {decoder: {n_layer: 2}}", "model.decoder.n_layer: unknown key; write depth"),
    ],
)
def test_names_of_other_tools_get_ours(tmp_path, line, message):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, experiment=EXPERIMENT + line)
    assert str(error.value).endswith(message)


def test_names_of_other_tools_in_training_get_ours(tmp_path):
    for name, ours in {"epochs": "passes", "batch": "batch_size", "bf16": "precision", "max_steps": "steps"}.items():
        with pytest.raises(ConfigError, match=rf"training\.{name}: unknown key; write {ours}$"):
            load(tmp_path, experiment=EXPERIMENT.replace("steps: 4", f"steps: 4, {name}: 8"))


def test_every_name_of_another_tool_stands_for_a_key_of_an_experiment():
    keys = set(re.findall(r'"(\w+)": \{', schema_text("experiment")))
    for path, names in (*RENAMED.items(), *RELATED.items()):
        assert path.split(".")[-1] in keys
        assert not {name for name in names if name in Training.model_fields or name in Optimization.model_fields}
