"""One experiment, one set of final bytes: for any number of workers and loader processes, in one go or killed and resumed. Makes the table of docs/explanation/exactness.md."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from glassworks.training.loop import METRICS
from glassworks.training.metrics_log import read_metrics

from .engine import finish, kill
from .pictures import STEPS, make_inputs, picture_run

WORKERS, LOADERS = (1, 2, 4, 8), (0, 2)
FUSION = pytest.param("fusion", marks=pytest.mark.slow)  # tests/tasks/test_fusion.py has a case in every test run


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_inputs(tmp_path_factory.mktemp("shards"))


def train(workers: int, settings: dict[str, Any]) -> str:
    return finish(picture_run, settings, workers)["sha256"]


def some_and_all(some: list[tuple[int, int]], workers: tuple[int, ...]) -> pytest.MarkDecorator:
    """Numbers of workers and loader processes: a few in every test run, every pair in `make test-slow`."""
    every = pytest.param(list(itertools.product(workers, LOADERS)), id="all", marks=pytest.mark.slow)
    return pytest.mark.parametrize("settings", [pytest.param(some, id="some"), every])


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["captioner", "contrastive", "language"])
@some_and_all([(1, 0), (4, 2)], WORKERS)
def test_one_experiment_has_one_set_of_final_bytes(tmp_path, shards, record_row, task, precision, settings):
    draw = random.Random(f"{task} {precision}")
    found = set()
    for workers, loaders in settings:
        common = {"shards": shards, "task": task, "precision": precision, "loader_workers": loaders}
        whole = {"folder": tmp_path / f"whole-{workers}-{loaders}", "killed_at": None, "rank": 0, **common}
        uninterrupted = train(workers, whole)
        step, before = draw.randint(1, STEPS - 1), draw.choice([count for count, _ in settings])
        cut = {"folder": tmp_path / f"killed-{workers}-{loaders}", **common}
        kill(picture_run, {**cut, "killed_at": step, "rank": draw.randrange(before)}, before)
        resumed = train(workers, {**cut, "killed_at": None, "rank": 0})
        found |= {uninterrupted, resumed}
        how = f"{resumed[:16]} (killed after step {step} with {before})"
        record_row("exactness", task, precision, workers, loaders, uninterrupted[:16], how)
    assert len(found) == 1, found


@pytest.mark.parametrize(
    "before_and_after",
    [
        pytest.param([(1, 2)], id="some"),
        pytest.param(list(itertools.product((1, 2, 4), repeat=2)), id="all", marks=pytest.mark.slow),
    ],
)
def test_an_adapter_of_4_bit_weights_has_one_set_of_final_bytes(tmp_path, shards, record_row, before_and_after):
    """PiSSA with dropout and NEFTune. The checkpoint has no weight of the base: it is quantised again after the kill."""
    common = {"shards": shards, "task": "adapter", "precision": "bf16", "loader_workers": 0, "rank": 0}
    found = {train(1, {"folder": tmp_path / "whole", "killed_at": None, **common})}
    for before, after in before_and_after:
        cut = {"folder": tmp_path / f"killed-{before}-{after}", **common}
        kill(picture_run, {**cut, "killed_at": 3}, before)
        resumed = train(after, {**cut, "killed_at": None})
        found.add(resumed)
        how = f"{resumed[:16]} (killed after step 3 with {before})"
        record_row("exactness", "adapter, nf4", "bf16", after, 0, "", how)
    assert len(found) == 1, found


@pytest.mark.parametrize("task", [pytest.param("mixture", marks=pytest.mark.slow), "alignment", FUSION, "instruction"])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param([((1, 0), (2, 2))], id="some"),
        pytest.param([(one, one) for one in itertools.product((1, 2, 4), LOADERS)], id="all", marks=pytest.mark.slow),
    ],
)
def test_killed_twice_a_run_has_the_final_bytes_of_the_whole_one(tmp_path, shards, record_row, task, settings):
    """Killed after a step before the first validation, and after a later one: a mixture of two data sets; heads on stored features of three
    encoders, with InfoNCE over the global batch; a decoder that reads such features through gated layers, with modalities hidden by chance;
    LoRA of 4-bit weights on packed conversations. The log has one set of bytes, too.
    """
    found, rows = set(), set()
    precision = "bf16" if task == "instruction" else "fp32"
    for whole_with, killed_with in settings:
        common = {"shards": shards, "task": task, "precision": precision, "rank": 0}
        whole = {**common, "folder": tmp_path / "whole-{}-{}".format(*whole_with), "killed_at": None}
        uninterrupted = train(whole_with[0], {**whole, "loader_workers": whole_with[1]})
        workers, loaders = killed_with
        cut = {**common, "folder": tmp_path / f"killed-{workers}-{loaders}", "loader_workers": loaders}
        for step in (2, 5):
            kill(picture_run, {**cut, "killed_at": step}, workers)
        resumed = train(workers, {**cut, "killed_at": None})
        found |= {uninterrupted, resumed}
        rows |= {(run["folder"] / METRICS).read_text() for run in (whole, cut)}
        how = f"{resumed[:16]} (killed after steps 2 and 5)"
        record_row("exactness", task, precision, workers, loaders, uninterrupted[:16], how)
    assert len(found) == len(rows) == 1, found
    first, *_, last = read_metrics(tmp_path / "whole-1-0" / METRICS)
    if task == "mixture":
        losses = [last[f"validation_loss{name}"] for name in ("", ".pictures", ".more_pictures")]
        assert min(losses[1:]) < losses[0] < max(losses[1:])
    if task == "alignment":
        assert first["loss.image_text"] > 0 and first["loss.audio_text"] > 0, "both pairs are trained"
