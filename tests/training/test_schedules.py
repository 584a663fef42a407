"""Schedules are functions of the step."""

import math
import subprocess
import sys
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glassworks.config.optimization import Optimization, ParameterGroup
from glassworks.training.schedules import learning_rate

SCHEDULES = ["constant", "cosine", "one_cycle", "wsd"]
ROUNDING = 1 + 2**-52


def rates(config: Optimization, steps: int, group: ParameterGroup | None = None) -> list[float]:
    return [learning_rate(config, step, steps, group) for step in range(steps)]


def group(**settings: Any) -> ParameterGroup:
    return ParameterGroup(parameters=["encoder.*"], **settings)


def one_cycle_of_torch(config: Optimization, steps: int) -> list[float]:
    """The rates that torch's scheduler sets, one step after the other."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.learning_rate,
        total_steps=steps,
        pct_start=config.warmup_steps / steps,
        anneal_strategy="cos",
        cycle_momentum=False,
        div_factor=1 / config.start,
        final_div_factor=config.start / config.floor if config.floor else math.inf,
    )
    found = []
    for step in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return found


def test_cosine_warms_up_peaks_and_ends_at_the_floor():
    config = Optimization(learning_rate=1.0, warmup_steps=10, schedule="cosine", floor=0.1)
    found = rates(config, 110)
    assert found[0] == pytest.approx(0.1) and found[9] == found[10] == 1.0
    assert found[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(found[10:]))
    assert found[60] == pytest.approx(0.55, abs=0.01)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 300), (7, 300), (100, 101), (100, 100)])
def test_cosine_keeps_the_bits_of_earlier_versions(warmup: int, steps: int):
    config = Optimization(learning_rate=3e-4, warmup_steps=warmup, schedule="cosine", floor=0.07)
    for step, found in enumerate(rates(config, steps)):
        progress = (step - warmup) / max(1, steps - 1 - warmup)
        share = 0.07 + (1 - 0.07) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        assert found == (3e-4 * (step + 1) / warmup if step < warmup else 3e-4 * share)


def test_constant_warms_up_and_stays_at_the_peak():
    config = Optimization(learning_rate=0.5, warmup_steps=4, schedule="constant")
    assert rates(config, 50) == [0.125, 0.25, 0.375] + [0.5] * 47
    assert set(rates(config.model_copy(update={"warmup_steps": 0}), 50)) == {0.5}


def test_wsd_stays_at_the_peak_and_falls_in_a_line_over_its_last_steps():
    config = Optimization(learning_rate=2.0, warmup_steps=2, schedule="wsd", floor=0.25, decay_steps=3)
    assert rates(config, 10) == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5]


def test_wsd_decays_over_a_fifth_of_the_run_when_nothing_is_said():
    found = rates(Optimization(learning_rate=1.0, warmup_steps=0, schedule="wsd"), 53)
    assert set(found[:43]) == {1.0} and all(a > b for a, b in pairwise(found[42:]))


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.3, 1.0])
def test_wsd_ends_at_the_floor_exactly(floor: float):
    config = Optimization(learning_rate=3e-3, warmup_steps=5, schedule="wsd", floor=floor, decay_steps=7)
    assert rates(config, 40)[-1] == floor * 3e-3


def test_wsd_decay_waits_for_the_warm_up():
    config = Optimization(learning_rate=1.0, warmup_steps=6, schedule="wsd", floor=0.0, decay_steps=9)
    assert rates(config, 10) == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 0.75, 0.5, 0.25, 0])


def test_one_cycle_rises_from_its_start_to_the_peak_and_falls_to_the_floor():
    config = Optimization(learning_rate=1.0, warmup_steps=30, schedule="one_cycle", start=0.04, floor=0.001)
    found = rates(config, 100)
    assert found[0] == pytest.approx(0.04) and found[29] == max(found) == pytest.approx(1.0)
    assert found[-1] == pytest.approx(0.001)
    assert all(a < b for a, b in pairwise(found[:30])) and all(a > b for a, b in pairwise(found[29:]))


@pytest.mark.parametrize(
    ("warmup", "steps", "start", "floor", "peak"),
    [
        (30, 100, 0.04, 4e-6, 0.1),  # torch's own defaults
        (100, 1000, 0.04, 0.1, 1e-3),
        (333, 1000, 0.5, 0.0, 3e-4),
        (2, 3, 0.1, 0.2, 1.0),
        (0, 20, 1.0, 0.5, 0.01),
        (50, 50, 0.2, 0.1, 0.01),
    ],
)
def test_one_cycle_is_that_of_torch(warmup: int, steps: int, start: float, floor: float, peak: float):
    config = Optimization(schedule="one_cycle", learning_rate=peak, warmup_steps=warmup, start=start, floor=floor)
    assert rates(config, steps) == pytest.approx(one_cycle_of_torch(config, steps), rel=1e-9, abs=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_group_runs_the_whole_schedule_inside_its_window(schedule: Any):
    config = Optimization(schedule=schedule, learning_rate=1e-3, warmup_steps=5)
    found = rates(config, 100, group(train_from=30, train_until=70))
    assert found == [0.0] * 30 + rates(config, 40) + [0.0] * 30
    assert rates(config, 100, group(train_from=30)) == [0.0] * 30 + rates(config, 70)
    assert rates(config, 100, group(train_from=30, train_until=170)) == [0.0] * 30 + rates(config, 70)
    assert rates(config, 100, group(train_from=100)) == [0.0] * 100


def test_a_group_without_settings_is_trained_like_the_rest():
    config = Optimization(learning_rate=1e-3, warmup_steps=5)
    assert rates(config, 40, group()) == rates(config, 40)


def test_a_group_has_its_own_peak_and_warm_up():
    config = Optimization(learning_rate=1e-3, warmup_steps=5)
    own = Optimization(learning_rate=1e-5, warmup_steps=0)
    assert rates(config, 40, group(learning_rate=1e-5, warmup_steps=0)) == rates(own, 40)


def test_a_frozen_group_has_the_rate_zero():
    assert rates(Optimization(), 300, group(frozen=True, learning_rate=1.0)) == [0.0] * 300


@st.composite
def settings(draw: st.DrawFn) -> tuple[Optimization, ParameterGroup | None, int]:
    steps = draw(st.integers(1, 60))
    counts, shares, peaks = st.integers(0, 70), st.floats(0, 1), st.floats(1e-9, 1e3)
    config = Optimization(
        schedule=draw(st.sampled_from(SCHEDULES)),
        learning_rate=draw(peaks),
        warmup_steps=draw(counts),
        floor=draw(shares),
        start=draw(shares),
        decay_steps=draw(st.none() | counts),
    )
    first = draw(counts)
    window = {"train_from": first, "train_until": draw(st.none() | st.integers(first + 1, first + 70))}
    own = {"learning_rate": draw(st.none() | peaks), "warmup_steps": draw(st.none() | counts)}
    return config, draw(st.sampled_from([None, group(**own, **window), group(**own, frozen=True)])), steps


@given(settings())
def test_rates_stay_between_zero_and_the_peak(given_settings: tuple[Optimization, ParameterGroup | None, int]):
    config, of, steps = given_settings
    peak = (of and of.learning_rate) or config.learning_rate
    assert all(0 <= rate <= peak * ROUNDING for rate in rates(config, steps, of))


@given(settings(), st.randoms(use_true_random=False))
def test_a_step_computed_alone_has_the_rate_it_has_in_sequence(
    given_settings: tuple[Optimization, ParameterGroup | None, int], random: Any
):
    config, of, steps = given_settings
    order = random.sample(range(steps), steps)
    alone = {step: learning_rate(config, step, steps, of) for step in order}
    assert [alone[step] for step in range(steps)] == rates(config, steps, of)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_small_run_divides_by_zero(schedule: Any):
    for steps, warmup, decay, first in product(range(1, 6), range(7), [None, *range(7)], range(6)):
        config = Optimization(schedule=schedule, warmup_steps=warmup, decay_steps=decay, learning_rate=1.0)
        for of in (None, group(train_from=first), group(train_from=first, train_until=first + 1)):
            assert all(0 <= rate <= ROUNDING for rate in rates(config, steps, of))


def test_schedules_need_no_torch():
    code = "import sys, glassworks.training.schedules; sys.exit('torch is imported' if 'torch' in sys.modules else 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
