"""`glassworks migrate` renames keys where they stand and touches nothing else, or writes nothing."""

import pytest

from glassworks.config.project import load_project

from .conftest import EXPERIMENT, PARAMS

OLD = (
    EXPERIMENT.replace("learning_rate: 0.01", "lr: 0.01, 'grad_clip' : 2.0").replace(
        "width: 16, depth", "d_model: 16, n_layer"
    )
    + """\
evaluations: {}
variants:
  slow: # a tenth
    set:
      optimization.lr: 1e-3 # of 0.01
      model: { n_embd: 16, depth: 2, heads: 2, max_tokens: 16 }
    seeds: [1, 2]
"""
)
NEW = EXPERIMENT.replace("learning_rate: 0.01", "learning_rate: 0.01, clip_norm : 2.0") + OLD[
    OLD.index("evaluations") :
].replace("optimization.lr", "optimization.learning_rate").replace("n_embd", "width")
ENCODERS = """\
weights: { bert: { source: local, path: bert } }
encoders:
  # a text tower
  reader:
    encoder: sentence
    weights: bert
    max_length:   18   # words
"""


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.yaml")}


@pytest.fixture
def old(written):
    (written.root / "experiments/lm_words.yaml").write_text(OLD)
    (written.root / "params.yaml").write_text(PARAMS + ENCODERS)
    return written


def test_keys_are_renamed_nested_in_flow_style_and_in_overrides_and_all_else_stays(old, glassworks):
    output = glassworks("migrate").splitlines()
    assert (old.root / "experiments/lm_words.yaml").read_text() == NEW
    assert (old.root / "params.yaml").read_text() == PARAMS + ENCODERS.replace("max_length", "max_tokens")
    assert output == [
        "params.yaml:13: encoders.reader.max_length -> encoders.reader.max_tokens",
        "experiments/lm_words.yaml:7: optimization.lr -> optimization.learning_rate",
        "experiments/lm_words.yaml:7: optimization.grad_clip -> optimization.clip_norm",
        "experiments/lm_words.yaml:6: model.d_model -> model.width",
        "experiments/lm_words.yaml:6: model.n_layer -> model.depth",
        "experiments/lm_words.yaml:13: variants.slow.set.optimization.lr -> variants.slow.set.optimization.learning_rate",
        "experiments/lm_words.yaml:14: variants.slow.set.model.n_embd -> variants.slow.set.model.width",
        "7 keys renamed in 2 files",
    ]
    variant = load_project(old.root).experiments["lm_words--slow--1"]
    assert (variant.optimization.learning_rate, variant.model.width, variant.model.depth) == (1e-3, 16, 2)


def test_a_second_call_finds_nothing(old, glassworks):
    glassworks("migrate")
    before = files(old.root)
    assert glassworks("migrate") == "no key to rename in 2 files\n"
    assert files(old.root) == before


def test_a_dry_run_shows_the_same_changes_and_writes_nothing(old, glassworks):
    before = files(old.root)
    shown = glassworks("migrate", "--dry-run").splitlines()
    assert files(old.root) == before and shown[-1] == "nothing is written: --dry-run"
    assert glassworks("migrate").splitlines()[:-1] == shown[:-1]


def test_line_ends_and_shared_sections_stay(written, glassworks):
    text = EXPERIMENT.replace("{ learning_rate: 0.01, warmup_steps: 1 }", "&rates { lr: 0.01, warmup_steps: 1 }")
    text += "variants: { again: { set: { optimization: *rates }, seeds: [4] } }\n"
    file = written.root / "experiments/lm_words.yaml"
    file.write_bytes(text.replace("\n", "\r\n").encode())
    glassworks("migrate")
    assert file.read_bytes() == text.replace("lr:", "learning_rate:").replace("\n", "\r\n").encode()


def test_experiments_that_params_does_not_list_are_renamed_too(written, glassworks):
    (written.root / "experiments/later.yaml").write_text(OLD)
    assert "experiments/later.yaml:7: optimization.lr" in glassworks("migrate")
    assert (written.root / "experiments/later.yaml").read_text() == NEW


@pytest.mark.parametrize(
    ("file", "before", "after", "line"),
    [
        ("lm_words", "steps: 2", "steps: 2, digest_evry: 1", "lm_words.yaml: training.digest_evry: unknown key; did you mean"),
        ("lm_words", "steps: 2", "steps: 2, early_stopping: 3", "training.early_stopping: unknown key; write training.selection.patience"),
        ("lm_words", "task:", "lr: 1.0\ntask:", "lm_words.yaml: lr: unknown key; write optimization.learning_rate"),
        ("lm_words", "lr: 0.01", "lr: fast", "optimization.learning_rate: should be a valid number (given: 'fast')"),
        ("lm_words", "lr: 0.01", "lr: 0.01, learning_rate: 1.0", "optimization.lr: learning_rate is there, too; remove one"),
        ("lm_words", "task:", "task: [", "lm_words.yaml:3: "),
        ("later", "depth: 1", "depth: 0", "experiments/later.yaml: model.depth: should be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_another_fault_is_one_line_and_no_file_is_written(old, glassworks, file, before, after, line):
    path = old.root / f"experiments/{file}.yaml"
    path.write_text((OLD if file == "lm_words" else EXPERIMENT).replace(before, after))
    untouched = files(old.root)
    output = glassworks("migrate")
    assert output.startswith("error: ") and "\n" not in output and line in output
    assert files(old.root) == untouched


def test_an_error_while_writing_puts_the_first_files_back(old, glassworks):
    long = "b" * 249  # the name of a temporary file beside it is too long for a file system
    (old.root / f"experiments/{long}.yaml").write_text(OLD)
    untouched = files(old.root)
    with pytest.raises(OSError, match="too long"):
        glassworks("migrate")
    assert files(old.root) == untouched
