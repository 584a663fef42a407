"""Learning rates, each a pure function of the step."""

import math

from glassworks.config.training import Optimization


def learning_rate(config: Optimization, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear warm-up, then constant or half a cosine down to `floor` times the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps)
    share = config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * share
