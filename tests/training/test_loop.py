"""A run ends the same whatever happened on the way, and ends when it should."""

import json
from dataclasses import replace
from typing import Any

import pytest

from glassworks.config.training import Selection
from glassworks.errors import ConfigError, DataError
from glassworks.runtime.launch import run_workers
from glassworks.runtime.signals import StopRequest
from glassworks.training.loop import fit
from glassworks.training.metrics_log import read_metrics
from glassworks.training.validation import HeldOut, ValidationHistory, memorised_after, validate
from glassworks.training.workers import Workers

from .engine import train, train_until
from .objectives import Contrastive, Refinement, Regression, a_run

STAGED = {"late": {"parameters": ["*block*"], "train_from": 2, "train_until": 5, "learning_rate": 0.01}}
EACH = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "average": {"ema_decay": 0.9},
    "staged": {"groups": STAGED},
    "best": {"selection": {"publish": "best"}},
    "one_cycle": {"schedule": "one_cycle"},
    "wsd": {"schedule": "wsd"},
    "SGD": {"optimizer": "SGD", "options": {"momentum": 0.9}},
    "NAdam": {"optimizer": "NAdam"},
    "Adafactor": {"optimizer": "Adafactor", "betas": None},
}


OFTEN = {"fp32", "bf16", "best"}
"""Settings of which every task has a case in every test run; the others in `make test-slow`."""
CASES = [
    pytest.param(
        task,
        name,
        id=f"{type(task).__name__}-{name}",
        marks=() if isinstance(task, Regression) or name in OFTEN else pytest.mark.slow,
    )
    for task in (Regression(), Contrastive(), Refinement())
    for name in EACH
]


@pytest.mark.parametrize(("task", "name"), CASES)
def test_a_run_that_was_killed_and_resumed_with_more_workers_has_the_same_bytes(tmp_path, task, name):
    settings = {key: value for key, value in EACH[name].items() if value is not None}
    straight = train(tmp_path / "straight", task, **settings)
    train_until(tmp_path / "killed", 5, task, **settings)
    resumed = train(tmp_path / "killed", task, workers=2, **settings)
    assert (straight["resumed"], resumed["resumed"]) == (0, 4)
    assert resumed["sha256"] == straight["sha256"]
    for log in ("metrics.jsonl", "digests.jsonl"):
        assert (tmp_path / "killed" / log).read_bytes() == (tmp_path / "straight" / log).read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"checkpoint_every": 1}, {"checkpoint_every": 100, "keep_checkpoints": 1}, {"gradient_checkpointing": True}],
)
def test_how_a_run_is_carried_out_changes_no_byte(tmp_path, change):
    wanted = train(tmp_path / "a", Regression(), selection={"publish": "best"})["sha256"]
    assert train(tmp_path / "b", Regression(), selection={"publish": "best"}, **change)["sha256"] == wanted


def test_the_best_weights_are_published_and_survive_a_kill(tmp_path):
    """With such a rate the loss soon grows."""
    settings: dict[str, Any] = {
        "steps": 12, "validate_every": 1, "learning_rate": 3.0, "schedule": "constant", "selection": {"publish": "best"}
    }  # fmt: skip
    straight = train(tmp_path / "straight", Regression(), **settings)
    rows = [row for row in read_metrics(tmp_path / "straight/metrics.jsonl") if "validation_loss" in row]
    assert straight["published"] == min(rows, key=lambda row: row["validation_loss"])["step"] < 12
    train_until(tmp_path / "killed", 11, Regression(), **settings)
    assert train(tmp_path / "killed", Regression(), **settings) == {**straight, "resumed": 10}


def test_a_damaged_best_checkpoint_sends_the_run_back_before_it(tmp_path, capfd):
    settings: dict[str, Any] = {
        "steps": 12, "validate_every": 1, "learning_rate": 3.0, "schedule": "constant", "selection": {"publish": "best"}
    }  # fmt: skip
    straight = train(tmp_path / "straight", Regression(), **settings)
    train_until(tmp_path / "killed", 11, Regression(), **settings)
    best = tmp_path / f"killed/checkpoints/step-{straight['published']:08d}/model.safetensors"
    best.write_bytes(best.read_bytes()[:-1] + b"?")
    assert train(tmp_path / "killed", Regression(), **settings)["sha256"] == straight["sha256"]
    assert f"the best checkpoint (step {straight['published']}) is damaged; going back" in capfd.readouterr().err


def test_patience_ends_a_run_early_also_when_it_is_resumed(tmp_path):
    settings: dict[str, Any] = {
        "steps": 40, "validate_every": 1, "learning_rate": 3.0, "schedule": "constant",
        "selection": {"publish": "best", "patience": 3}, "keep_checkpoints": 1,
    }  # fmt: skip
    ended = train(tmp_path / "a", Regression(), **settings)
    assert ended["step"] == ended["published"] + 3 < 40
    again = train(tmp_path / "a", Regression(), workers=2, **settings)
    assert again == {**ended, "resumed": ended["step"]}


def test_every_part_of_a_loss_is_logged_and_validated_under_its_name(tmp_path):
    train(tmp_path, Refinement(), workers=2)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    for prefix in ("", "validation_"):
        found = [row for row in rows if f"{prefix}loss" in row]
        assert len(found) == (2 if prefix else 6)
        for row in found:
            assert 0 < min(row[f"{prefix}loss.positive"], row[f"{prefix}loss.negative"]) < row[f"{prefix}loss"]


def test_a_part_without_targets_has_no_mean(tmp_path):
    class Nothing(Refinement):
        def loss(self, model: Any, batch: Any, carry: Any = ()) -> Any:
            loss = super().loss(model, batch, carry)
            return replace(loss, parts={**loss.parts, "none": (loss.total.detach() * 0, 0)})

    train(tmp_path, Nothing())
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss.none"] is None


def test_a_global_batch_without_a_target_is_named(tmp_path):
    class Blind(Regression):
        def loss(self, model: Any, batch: Any, carry: Any = ()) -> Any:
            return replace(super().loss(model, batch), weight=0)

    with pytest.raises(DataError, match="step 0: no sample of the global batch has a target"):
        train(tmp_path, Blind())


def test_a_log_that_lost_rows_makes_the_run_start_again(tmp_path, capfd):
    wanted = train(tmp_path / "a", Regression())["sha256"]
    train_until(tmp_path / "b", 5, Regression())
    log = tmp_path / "b/metrics.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"step": 3' not in line))
    found = train(tmp_path / "b", Regression())
    assert (found["sha256"], found["resumed"]) == (wanted, 0)
    assert "rows are missing; starting again" in capfd.readouterr().err


def test_a_loss_that_is_not_finite_ends_the_run_and_the_last_checkpoint_stays(tmp_path):
    with pytest.raises(DataError, match=r"step 4, micro-batch 3: the loss is (nan|inf); samples: 70, 71;"):
        train(tmp_path, Regression(), workers=2, poison=70)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000003", "step-00000004"]
    assert train(tmp_path, Regression())["resumed"] == 4


def test_no_row_of_the_record_varies_between_runs(tmp_path):
    train(tmp_path / "a", Regression())
    train(tmp_path / "b", Regression(), workers=4)
    rows = (tmp_path / "a/metrics.jsonl").read_text()
    assert rows == (tmp_path / "b/metrics.jsonl").read_text()
    assert {"loss", "learning_rate", "gradient_norm", "tokens", "samples", "step"} <= json.loads(
        rows.splitlines()[0]
    ).keys()


def _validated(workers: Workers, stop: StopRequest, count: int) -> dict[str, float]:
    run = a_run(None, Regression(dropout=0.0))  # type: ignore[arg-type]
    from glassworks.training.loop import make_trainer

    trainer = make_trainer(run, workers)
    held_out = HeldOut(count, run.held_out.read)
    return validate(trainer.model, run.task, held_out, trainer.precision, workers, 0)


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(8, marks=pytest.mark.slow)])
def test_validation_is_the_same_for_any_number_of_workers(tmp_path, count):
    wanted = _validated(Workers(), StopRequest(), count)
    for workers in (2, 4):
        found = run_workers(_validated, count, count=workers, device="cpu", folder=tmp_path / "workers")
        assert found == wanted


def test_progression_knows_the_best_of_either_direction():
    rows = [{"step": step, "validation_loss": value} for step, value in enumerate((3.0, 1.0, 2.0, 1.0))]
    for mode, best in (("min", 1), ("max", 0)):
        history = ValidationHistory(Selection(mode=mode, patience=3))
        for row in [{"step": 9, "loss": 0.0}, *rows]:
            history.add(row)
        assert history.best_step == best
        assert history.exhausted == (mode == "max")


def test_a_metric_that_the_task_has_not_is_an_error_that_lists_those_it_has(tmp_path):
    run = a_run(tmp_path, Regression(), selection={"metric": "validation_cider"})
    with pytest.raises(ConfigError, match="'validation_cider'; it has validation_loss"):
        fit(run, Workers(), StopRequest())


@pytest.mark.parametrize(
    ("held_out", "training", "step"),
    [
        ([3.0, 2.0, 2.5, 3.5], [3.0, 2.0, 1.0, 0.1], 20),
        ([3.0, 2.0, 1.5, 1.4], [3.0, 2.0, 1.0, 0.1], None),  # still falling
        ([3.0, 2.0, 2.01], [3.0, 2.0, 1.0], None),  # within 1 %
        ([3.0, 2.0, 9.0], [3.0, 2.0, 9.0], None),  # diverged
        ([], [3.0, 2.0], None),
    ],
)
def test_memorising_is_a_validation_loss_that_rises_while_the_training_loss_falls(held_out, training, step):
    rows: list[dict[str, Any]] = [{"step": 10 * index, "loss": loss} for index, loss in enumerate(training, 1)]
    rows += [{"step": 10 * index, "validation_loss": loss} for index, loss in enumerate(held_out, 1)]
    assert memorised_after(rows) == step
