"""The task `puzzles` and its evaluation `boards`: exact with deep supervision, and only whole boards count."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from glassworks.data import sudoku
from glassworks.data.reading.dataset import Sample
from glassworks.errors import ConfigError, DataError
from glassworks.evaluation.boards.score import chosen, shown, summary
from glassworks.evaluation.boards.settings import BoardsEvaluation
from glassworks.models.recursive import Step, stablemax_cross_entropy
from glassworks.models.settings.recursive import Recursive as Config
from glassworks.runtime import fork_server
from glassworks.runtime.signals import StopRequest
from glassworks.sources.sudoku.source import board, classes_by_split
from glassworks.stages.train import describe
from glassworks.tasks.puzzles.settings import BoardTraining, PuzzleOptions
from glassworks.tasks.puzzles.task import PuzzlesTask
from glassworks.training.loop import fit
from glassworks.training.workers import Workers

from ..training.engine import Stopped, sha256

PARAMS = {"datasets": {"boards": {"source": "sudoku", "samples": {"train": 24, "validation": 6, "test": 10}}}}
EXPERIMENT = {
    "task": "puzzles",
    "data": {"dataset": "boards"},
    "model": {
        "width": 8,
        "heads": 2,
        "inner": 16,
        "inner_recursions": 1,
        "outer_recursions": 2,
        "supervision_steps": 3,
    },
    "optimization": {"warmup_steps": 1, "learning_rate": 0.01},
    "training": {
        "steps": 4,
        "batch_size": 8,
        "micro_batches": 2,
        "validate_every": 2,
        "ema_decay": 0.9,
        "digest_every": 1,
    },
    "execution": {"checkpoint_every": 1},
    "evaluations": {
        "boards": {"bootstrap": 100, "batch_size": 4, "depths": [1, 2], "tries": [1, 2], "tried_boards": 6}
    },
}
CLASSES = classes_by_split({"validation": 5, "test": 10}, 0)
FILES = ("model.safetensors", "metrics.jsonl", "digests.jsonl")


def a_sample(index: int = 0, **changes) -> Sample:
    record = board(0, "train", index, CLASSES["train"], None)
    content = {"labels": {**record.labels, **changes}, "group": record.group}
    return Sample(record.key, {"json": memoryview(json.dumps(content).encode())}, f"train-00000.tar: sample {index}")


def a_task(**training) -> PuzzlesTask:
    return PuzzlesTask(Config(**EXPERIMENT["model"]), BoardTraining(steps=1, **training))


def a_batch(task: PuzzlesTask, count: int = 3):
    return task.collate([task.example(a_sample(index), PuzzleOptions(), 0) for index in range(count)])


def test_an_augmented_board_is_a_board_of_the_same_class():
    task, sample = a_task(), a_sample()
    plain = task.example(sample, PuzzleOptions(augment=False), 1)
    assert sudoku.to_text((plain.puzzle - 1).astype(np.int8)) == sample.json()["labels"]["puzzle"]
    drawn = [task.example(sample, PuzzleOptions(), seed) for seed in (1, 1, 2)]
    assert (drawn[0].puzzle == drawn[1].puzzle).all() and (drawn[0].puzzle != drawn[2].puzzle).any()
    for example in drawn:
        puzzle, solution = (part.astype(np.int8) - 1 for part in (example.puzzle, example.solution))
        assert sudoku.class_of(solution) == sudoku.class_of(plain.solution.astype(np.int8) - 1)
        assert (puzzle[puzzle >= 0] == solution[puzzle >= 0]).all() and sudoku.count_solutions(puzzle) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"puzzle": None}, "use a dataset of the source sudoku"),
        ({"solution": "1" * 35}, "36 characters"),
        ({"solution": "." * 36}, "its solution has empty cells"),
        ({"puzzle": "1" * 36}, "or others than its puzzle"),
    ],
)
def test_a_sample_without_a_board_is_named(changes, message):
    with pytest.raises(DataError, match=rf"train-00000.tar: sample 0: .*{message}"):
        a_task().board(a_sample(**changes))


@pytest.mark.parametrize("cell_loss", ["softmax", "stablemax"])
def test_the_loss_is_the_mean_over_cells_and_half_the_halting_loss(cell_loss):
    task = a_task(cell_loss=cell_loss)
    torch.manual_seed(0)
    model = task.build()
    batch = a_batch(task)
    found = task.loss(model, batch)
    step = model(batch.puzzles)
    losses = (
        F.cross_entropy(step.logits.flatten(0, 1), batch.solutions.flatten(), reduction="none")
        if cell_loss == "softmax"
        else stablemax_cross_entropy(step.logits, batch.solutions).flatten()
    )
    halting = -F.logsigmoid(-step.halting).sum()  # no board is solved
    assert found.weight == 3 and found.total.item() == pytest.approx((losses.sum() / 36 + halting / 2).item())
    assert found.parts["cells"][0].item() == pytest.approx((losses.sum() / 36).item())
    assert [state.shape for state in found.carry] == [(3, 37, 8)] * 2


def test_a_pass_continues_from_the_states_of_the_pass_before():
    task = a_task()
    torch.manual_seed(0)
    model = task.build()
    batch = a_batch(task)
    first = task.loss(model, batch)
    second = task.loss(model, batch, tuple(state.detach() for state in first.carry))
    assert not torch.equal(first.total, second.total)
    again = task.loss(model, batch)
    assert torch.equal(first.total, again.total)


class Fixed:
    """Answers the solutions, with one wrong cell in the first `wrong` boards, and halts everywhere."""

    def __init__(self, solutions, wrong):
        logits = F.one_hot(solutions, 7).float()
        logits[:wrong, 0] = logits[:wrong, 0].roll(1, -1)
        self.step = Step((logits, logits), logits, torch.ones(len(logits)))

    def __call__(self, puzzles, states=None):
        return self.step


def test_validation_counts_whole_boards_and_cells_beside_them():
    task = a_task()
    batch = a_batch(task)
    found = task.validate(Fixed(batch.solutions, wrong=2), batch)
    assert found["boards"] == (1, 3) and found["halting_accuracy"] == (1, 3)
    assert found["cells"][0] == pytest.approx(3 - 2 / 36)


def test_the_chosen_try_is_that_of_the_highest_halting_logit():
    assert chosen([(0.1, 36), (2.0, 30), (2.0, 36)]) == 30


def test_scores_by_hand():
    items = [
        {
            "class": name,
            "puzzle": [1] * 12 + [0] * 24,
            "solution": [1] * 36,
            "halting": logit,
            "depths": {"1": 18, "16": right},
            "tries": [(0.0, 36), (1.0, 30), (0.5, 36)],
        }
        for name, logit, right in (("a", 1.0, 36), ("a", 1.0, 27), ("b", -1.0, 27), ("b", 1.0, 36), ("b", 1.0, 36))
    ]
    found = summary(items, BoardsEvaluation(depths=[1, 16], tries=[1, 3], bootstrap=100), 16, 0)
    assert found["depths"]["16"]["boards"]["value"] == found["model"]["boards"]["value"] == 0.6
    assert found["depths"]["16"]["boards_by_class"]["value"] == 0.6
    assert found["depths"]["16"]["boards_by_class"]["low"] == 0.5  # class a twice
    assert found["depths"]["16"]["cells"]["value"] == 0.9 and found["depths"]["1"]["cells"]["value"] == 0.5
    assert found["classes"] == {"a": 0.5, "b": 0.666667} and found["halting_accuracy"]["value"] == 0.8
    tries = {name: score["boards"]["value"] for name, score in found["tries"].items()}
    assert tries == {"without noise": 0.6, "1": 1.0, "3": 0.0, "any of 3": 1.0}
    assert found["guessing"]["cells"] == pytest.approx((12 + 24 / 6) / 36, abs=1e-6)


def test_wrong_cells_of_a_shown_board_have_a_star():
    puzzle = [0, 2, 3, 4, 5, 0] + [0] * 30
    solution = [1, 2, 3, 4, 5, 6] * 6
    item = {"key": "a", "class": "class-01", "puzzle": puzzle, "answer": [2, *solution[1:]], "solution": solution}
    found = shown(item)
    assert found["board"] == "a, class-01: 1 wrong cells"
    assert found["grids"].splitlines()[1] == ". 2 3 | 4 5 .   2*2 3 | 4 5 6   1 2 3 | 4 5 6"
    assert "*" not in "".join(found["grids"].splitlines()[2:])
    assert shown({**item, "answer": solution})["board"] == "a, class-01: solved"


@pytest.fixture
def trained(project):
    """A project whose experiment `solver` can be trained."""
    project.configure(PARAMS, solver=EXPERIMENT)
    for name in ("records-boards", "shards-boards"):
        for job in range(project.table[name].jobs if name.startswith("shards") else 0):
            project.run_job(name, job)
        project.run(name)
    return project


def trained_bytes(project, **options) -> dict[str, bytes]:
    shutil.rmtree(project.root / "models/solver", ignore_errors=True)
    folder = project.run("train-solver", **options)
    return {name: (folder / name).read_bytes() for name in FILES}


def test_one_and_two_workers_train_and_score_with_the_same_bytes(trained):
    fork_server.start(*(f"glassworks.{entry}" for entry in trained.table["train-solver"].entries))
    one = trained_bytes(trained)
    results = [evaluated(trained)]
    two = trained_bytes(trained, threads=2, workers=2)
    assert one == two
    results.append(evaluated(trained, threads=2, workers=2))
    assert results[0] == results[1]
    metrics = json.loads(results[0]["metrics.json"])
    assert metrics["samples"] == 10 and metrics["tried_boards"] == 6 and list(metrics["depths"]) == ["1", "2", "3"]
    rows = [json.loads(line) for line in one["metrics.jsonl"].splitlines()]
    assert {"loss.cells", "loss.halting"} <= rows[0].keys()
    assert {"validation_boards", "validation_cells"} <= rows[2].keys()


def evaluated(project, **options) -> dict[str, bytes]:
    folder = project.root / "results/solver/boards"
    shutil.rmtree(folder, ignore_errors=True)
    project.run("evaluate-solver-boards", **options)
    return {name: (folder / name).read_bytes() for name in ("metrics.json", "items.jsonl", "labels.json")}


def test_a_killed_run_resumes_to_the_same_bytes(trained, tmp_path):
    whole = fit(describe(trained.context("train-solver", tmp_path / "whole")), Workers(), StopRequest())
    run = describe(trained.context("train-solver", tmp_path / "killed"))

    def cut(first, part):
        batches = run.batches(first, part)
        yield from (next(batches) for _ in range(3))
        raise Stopped

    with pytest.raises(Stopped):
        fit(replace(run, batches=cut), Workers(), StopRequest())
    resumed = fit(run, Workers(), StopRequest())
    assert 0 < resumed.resumed_step < resumed.step == 4
    assert sha256(resumed) == sha256(whole)
    assert any(not torch.equal(run.task.build().state_dict()[n], t) for n, t in resumed.model.named_parameters())


def test_depths_must_ascend(project):
    wrong = {**EXPERIMENT, "evaluations": {"boards": {"depths": [2, 1]}}}
    with pytest.raises(ConfigError, match="depths and tries must ascend, each number once"):
        project.configure(PARAMS, solver=wrong)


def test_stablemax_on_a_device_without_float64_is_one_line():
    logits = SimpleNamespace(device=SimpleNamespace(type="mps"))
    with pytest.raises(
        ConfigError, match=r"^training.cell_loss: stablemax computes in float64, which mps does not have"
    ):
        stablemax_cross_entropy(logits, None)
