"""Percentile bootstrap over images: confidence intervals for the choice of images.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Every function is pure: each call seeds a new
generator, so all metrics of all systems of a split use the same resamples. An interval covers only the choice of images,
not the training of the model. CIDEr's document frequencies come from the references of the whole scored split and stay
fixed during resampling. A score of 0 or 1 on every image has an interval of zero width: the sample holds no
counter-example, but one may exist.
"""

from collections.abc import Callable, Sequence

import numpy as np

Interval = dict[str, float | None]
"""value, low, high, rounded to `DIGITS`; all None if the score is undefined (a share of zero images, a diverged loss)."""

COVERAGE = 0.95
DIGITS = 6
"""Decimal digits: enough to compare scores, few enough that rounding differences between CPUs do not change an artefact."""
BLOCK = 1 << 22
"""Numbers gathered at a time. Bounds memory (32 MiB); does not affect results."""


def interval(
    statistics: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, resamples: int, seed: int
) -> Interval:
    """The value and 95 % interval of a score that is a function of sums over images.

    `statistics` [images, k] holds one row per image. `statistic` maps sums [..., k] to scores [...]. Resamples with an
    undefined score are excluded.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = float(statistic(statistics.sum(axis=0)))
        scores = statistic(resampled_sums(statistics, resamples, seed))
    scores = scores[np.isfinite(scores)]
    if not np.isfinite(value) or not len(scores):
        return {"value": None, "low": None, "high": None}
    tail = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(scores, [tail, 100 - tail])
    return {"value": round(value, DIGITS), "low": round(float(low), DIGITS), "high": round(float(high), DIGITS)}


def mean_interval(values: Sequence[float] | np.ndarray, *, resamples: int, seed: int) -> Interval:
    """The mean of `values` [images] and its 95 % interval."""
    return ratio_interval(values, np.ones(len(values)), resamples=resamples, seed=seed)


def ratio_interval(
    numerators: Sequence[float] | np.ndarray,
    denominators: Sequence[float] | np.ndarray,
    *,
    resamples: int,
    seed: int,
    exponential: bool = False,
) -> Interval:
    """A ratio of sums over images and its 95 % interval, such as a share of the qualifying images or a loss per token.

    With `exponential`, the exponential of the ratio: perplexity, if the sums are losses in nats and tokens.
    """

    def ratio(sums: np.ndarray) -> np.ndarray:
        quotient = sums[..., 0] / sums[..., 1]
        return np.exp(quotient) if exponential else quotient

    statistics = np.column_stack([np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)])
    return interval(statistics, ratio, resamples=resamples, seed=seed)


def resampled_sums(statistics: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums [resamples, k] of the rows of `statistics` [images, k] over images drawn with replacement.

    The drawn images depend only on the seed and the number of images. The sums are plain additions in a fixed order, no
    BLAS, so the bits depend neither on threads nor on the vector width.
    """
    images, columns = statistics.shape
    generator = np.random.default_rng(seed)
    sums = np.empty((resamples, columns))
    block = max(1, BLOCK // (images * columns))
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        drawn = generator.integers(0, images, size=(stop - start, images))
        sums[start:stop] = statistics[drawn].sum(axis=1)
    return sums
