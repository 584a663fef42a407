"""Learning rates as pure functions of the step, so that a resumed run needs no scheduler state."""

import math

from glassworks.config.optimization import Optimization, ParameterGroup
from glassworks.config.optimization import warmup as warmup_steps


def learning_rate(config: Optimization, step: int, steps: int, group: ParameterGroup | None = None) -> float:
    """The rate at step `step` (from 0) of `steps`, of `group` or of the default group.

    The schedule spans the window of the group, `train_from` to `train_until`. The rate is 0 outside the window and for
    frozen groups. The warm-up is never shortened. If it fills the window, there is no decay.
    """
    peak, given, first, end = config.learning_rate, config.warmup_steps, 0, steps
    if group is not None:
        peak = peak if group.learning_rate is None else group.learning_rate
        given = given if group.warmup_steps is None else group.warmup_steps
        first, end = group.train_from, min(group.train_until or steps, steps)
    if (group is not None and group.frozen) or not first <= step < end:
        return 0.0
    local, total = step - first, end - first
    warmup = warmup_steps(given, total)
    if config.schedule == "one_cycle":
        return peak * _one_cycle(config, local, total, warmup)
    if local < warmup:
        return peak * (local + 1) / warmup
    if config.schedule == "cosine":
        return peak * _half_cosine(config.floor, (local - warmup) / max(1, total - 1 - warmup))
    if config.schedule == "wsd":
        return peak * _wsd(config, local, total, warmup)
    return peak


def _wsd(config: Optimization, local: int, total: int, warmup: int) -> float:
    """Share of the peak after the warm-up: constant at 1, then a linear decay to the floor.

    Warm-up, stable, decay (Hu et al., 2024, MiniCPM, arXiv:2404.06395), which allows any decreasing function.
    """
    decay = total // 5 if config.decay_steps is None else config.decay_steps
    decay = min(decay, total - warmup)  # a longer decay would start below the peak
    left = total - 1 - local
    return config.floor + (1 - config.floor) * left / decay if left < decay else 1.0


def _one_cycle(config: Optimization, local: int, total: int, warmup: int) -> float:
    """Share of the peak: half a cosine up from `start`, then half a cosine down to the floor.

    The one-cycle policy (Smith & Topin, 2018, arXiv:1708.07120), with the phases of torch's OneCycleLR. The peak is at
    step `warmup - 1`; without a warm-up, the first step is already below the peak.
    """
    if local < warmup:
        return _half_cosine(config.start, (warmup - 1 - local) / max(1, warmup - 1))
    return _half_cosine(config.floor, (local - warmup + 1) / (total - warmup))


def _half_cosine(end: float, progress: float) -> float:
    """Half a cosine from 1 to `end`, for `progress` from 0 to 1."""
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
