"""Comparison of the variants of an experiment: means over seeds, and differences with intervals over seeds.

An interval over seeds covers the randomness of training: initial weights, sample order, dropout. It does not cover the choice of the scored samples.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from glassworks.evaluation.labels import Tile
from glassworks.report.reading import Interval, Run, Variant

COVERAGE = 0.95
DIGITS = 9
"""Decimal digits of the results. Metrics have fewer; the rest would be rounding errors, which exclude a difference of zero."""


@dataclass(frozen=True)
class Difference:
    """The difference of a mean to that of the reference."""

    found: Interval
    paired: bool
    """Whether the interval is of the differences by seed."""

    def better(self, lower_is_better: bool) -> bool | None:
        """Whether the whole interval is on the better side of zero, or on the worse side; None if it contains zero or there is none."""
        _, low, high = self.found
        if low is None or high is None or low <= 0 <= high:
            return None
        return (high < 0) == lower_is_better


@dataclass(frozen=True)
class Cell:
    """A metric of a variant."""

    values: dict[int, float]
    """By seed, without seeds whose value is undefined."""
    mean: Interval | None
    difference: Difference | None
    """None for the reference, and if a mean is undefined."""


@dataclass(frozen=True)
class Line:
    """A variant: one row of the table."""

    title: str
    overrides: dict[str, Any]
    seeds: list[int]
    cells: list[Cell]

    @property
    def paired(self) -> bool:
        """Whether all differences are paired by seed."""
        found = [cell.difference for cell in self.cells if cell.difference]
        return bool(found) and all(difference.paired for difference in found)


@dataclass(frozen=True)
class Comparison:
    """The table of the variants of an experiment. The first line is the reference."""

    columns: list[tuple[str, Tile]]
    """Evaluation and metric."""
    lines: list[Line]

    @property
    def titles(self) -> list[str]:
        """Column headings, with the evaluation if there are several."""
        several = len({evaluation for evaluation, _ in self.columns}) > 1
        return [f"{evaluation}: {tile.title}" if several else tile.title for evaluation, tile in self.columns]


def compare(run: Run, seed: int) -> Comparison | None:
    """The variants of an experiment, trained with `seed`, by the tiles of its evaluations; None without variants or tiles.

    The reference is the first variant without overrides. If there is none, it is the experiment itself.
    """
    reference = next((variant for variant in run.variants if not variant.overrides), None)
    first = reference or Variant(run.name, {}, {seed: run})
    columns = [(scores.name, tile) for scores in run.evaluations for tile in scores.labels.tiles]
    if not run.variants or not columns:
        return None
    base = [_values(first, *column) for column in columns]
    lines = []
    for variant in [first, *(other for other in run.variants if other is not reference)]:
        found = [_values(variant, *column) for column in columns]
        differences = [None if variant is first else difference(*pair) for pair in zip(found, base, strict=True)]
        cells = [Cell(values, mean(values), apart) for values, apart in zip(found, differences, strict=True)]
        lines.append(Line(variant.name, variant.overrides, list(variant.runs), cells))
    return Comparison(columns, lines)


def _values(variant: Variant, evaluation: str, tile: Tile) -> dict[int, float]:
    """The defined values of a metric by seed."""
    found = {
        seed: scores.value(tile.value)
        for seed, run in variant.runs.items()
        for scores in run.evaluations
        if scores.name == evaluation
    }
    return {seed: value.value for seed, value in found.items() if value}


def mean(values: Mapping[int, float]) -> Interval | None:
    """The mean over seeds and its t interval; no bounds for a single seed."""
    if not values:
        return None
    numbers = list(values.values())
    if len(numbers) < 2:
        return Interval(numbers[0], None, None)
    return _around(fmean(numbers), variance(numbers) / len(numbers), len(numbers) - 1)


def difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """The difference of two means with a t interval; None if one of them is undefined.

    Paired if both have the same seeds: the runs of a seed share their sample order. Otherwise Welch's interval, with the degrees of freedom rounded
    down. No bounds if one of them has a single seed.
    """
    if not values or not reference:
        return None
    if values.keys() == reference.keys():
        apart = mean({seed: values[seed] - reference[seed] for seed in values})
        return Difference(apart, len(values) > 1) if apart else None
    value = fmean(values.values()) - fmean(reference.values())
    if min(len(values), len(reference)) < 2:
        return Difference(Interval(value, None, None), False)
    parts = [(variance(found.values()) / len(found), len(found) - 1) for found in (values, reference)]
    squared = sum(part for part, _ in parts)
    spread = sum(part**2 / degrees for part, degrees in parts)
    return Difference(_around(value, squared, max(1, math.floor(squared**2 / spread)) if spread else 1), False)


def _around(value: float, squared_error: float, degrees: int) -> Interval:
    half = t_quantile(degrees) * math.sqrt(squared_error)
    return Interval(*(round(number, DIGITS) + 0.0 for number in (value, value - half, value + half)))


def t_quantile(degrees: int) -> float:
    """The t below which |T| stays with probability `COVERAGE`, for Student's distribution with `degrees` degrees of freedom.

    Inverts the finite series of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4, by bisection.
    """

    def probability(angle: float) -> float:
        sine, cosine, odd = math.sin(angle), math.cos(angle), degrees % 2
        total, term = 0.0, cosine if odd else 1.0
        for number in range(3 if odd else 2, degrees + 1, 2):
            total += term
            term *= cosine**2 * (number - 1) / number
        return 2 / math.pi * (angle + sine * total) if odd else sine * total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < COVERAGE else (low, middle)
    return math.sqrt(degrees) * math.tan(low)
