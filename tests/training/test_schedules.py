"""Schedules are functions of the step."""

from itertools import pairwise

import pytest

from glassworks.config.training import Optimization
from glassworks.training.schedules import learning_rate


def test_cosine_warms_up_peaks_and_ends_at_the_floor():
    config = Optimization(learning_rate=1.0, warmup_steps=10, schedule="cosine", floor=0.1)
    rates = [learning_rate(config, step, 110) for step in range(110)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[60] == pytest.approx(0.55, abs=0.01)


def test_constant_stays_at_the_peak():
    config = Optimization(learning_rate=0.5, warmup_steps=0, schedule="constant")
    assert {learning_rate(config, step, 50) for step in range(50)} == {0.5}
