"""The comparison of variants in the report: means, differences, intervals over seeds."""

import copy
import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from glassworks.report.variants import difference, mean, t_quantile

from .conftest import EXPERIMENT, METRICS, PARAMS, MadeProject, caption_lines, interval, results, training_log

VARIANTS = {
    "dry": {"set": {"optimization.weight_decay": 0.0}, "seeds": [1, 2, 3]},
    "plain": {"seeds": [1, 2, 3]},
}
CIDER = {"plain": {1: 2.5, 2: 2.6, 3: 2.7}, "dry": {1: 2.6, 2: 2.69, 3: 2.81}}


def make_variants(made: MadeProject, variants: dict, cider: dict[str, dict[int, float]]) -> None:
    made.small.configure(PARAMS, first={**EXPERIMENT, "variants": variants})
    made.make_all()
    for variant, values in cider.items():
        for seed, value in values.items():
            metrics = copy.deepcopy(METRICS)
            metrics["systems"]["beam"] |= {"cider": interval(value), "objects": interval(0.5 if seed != 2 else None)}
            made.make(f"train-first--{variant}--{seed}", {"metrics.jsonl": training_log()}, {"parameters": 123_456})
            made.make(f"evaluate-first--{variant}--{seed}-captions", results(metrics, caption_lines()))


@pytest.mark.parametrize(
    ("degrees", "tabulated"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)]
)
def test_quantiles_are_those_of_the_tables(degrees: int, tabulated: float) -> None:
    assert round(t_quantile(degrees), 3) == tabulated


def test_intervals_cover_as_often_as_they_claim() -> None:
    """Paired and unpaired differences of three and four draws, whose true value is 1, in 4,000 trials."""
    generator = np.random.default_rng(0)
    hits = {True: 0, False: 0}
    for _ in range(4000):
        shared, own, other = generator.normal(0, 3, 4), generator.normal(1, 1, 4), generator.normal(0, 1, 4)
        paired = difference(dict(enumerate(shared + own)), dict(enumerate(shared + other)))
        apart = difference(dict(enumerate(own[:3])), dict(enumerate(other, start=10)))
        for found in (paired, apart):
            hits[bool(found.paired)] += found.found.low <= 1 <= found.found.high
    assert abs(hits[True] / 4000 - 0.95) < 0.015
    assert 0.94 < hits[False] / 4000 < 0.99  # degrees of freedom are rounded down


def test_differences_are_paired_by_seed_if_both_have_the_same_seeds() -> None:
    found = difference({1: 3.0, 2: 4.1}, {2: 3.0, 1: 2.0})
    assert found.paired and math.isclose(found.found.value, 1.05)
    half = 12.706 * 0.05  # standard error of 1.0 and 1.1
    assert math.isclose(found.found.high - found.found.value, half, rel_tol=1e-4)
    apart = difference({1: 3.0, 2: 4.1}, {2: 3.0, 1: 2.0, 3: 2.5})
    assert not apart.paired and math.isclose(apart.found.value, 1.05) and apart.found.low < found.found.low
    equal = difference({1: 0.4, 2: 0.4, 3: 0.4}, {1: 0.4, 2: 0.4, 4: 0.4, 5: 0.4})
    assert equal.found == (0.0, 0.0, 0.0) and equal.better(False) is None
    single = [difference({1: 3.0}, reference) for reference in ({1: 2.0}, {1: 2.0, 2: 2.0})]
    assert all(found.found == (1.0, None, None) and not found.paired for found in single)
    assert difference({}, {1: 2.0}) is None and mean({}) is None
    assert difference({1: 3.0, 2: 3.0}, {3: 1.0, 4: 1.0}).found == (2.0, 2.0, 2.0)


def test_variants_are_one_table_and_one_figure(made: MadeProject, texts: Callable[[str], str]) -> None:
    make_variants(made, VARIANTS, CIDER)
    html = (made.report() / "report.html").read_text()
    shown = texts(html)
    table = shown[shown.index("Variants Variant") : shown.index("Means over seeds")]
    assert table.startswith("Variants Variant CIDEr-D BLEU-4 Objects Relations Perplexity plain seeds 1, 2, 3 260.0")
    assert "dry optimization.weight_decay: 0.0 seeds 1, 2, 3; paired 270.0 +10.0 (+7.5 to +12.5)" in table
    assert "50.0 2 of 3 seeds" in table and "3.25 +0.00 (+0.00 to +0.00)" in table
    assert '<span class="interval better">+10.0 (+7.5 to +12.5)</span>' in html
    assert shown.count("Held-out images") == 1 and html.count('class="experiment"') == 1
    assert html.index('id="experiment-first"') < html.index("Variants</h3>") < html.index("Training</h3>")
    assert "12 artefacts of the variants of first" in shown and "key-of-train-first--dry--3" in shown
    assert "variants, validation" in html and "#0a0b0" not in html


def test_without_a_plain_variant_the_reference_is_the_experiment(
    made: MadeProject, texts: Callable[[str], str]
) -> None:
    variants = {"dry": {"set": {"optimization.weight_decay": 0.0}, "seeds": [5, 1]}}
    make_variants(made, variants, {"dry": {5: 2.5, 1: 2.6}})
    shown = texts((made.report() / "report.html").read_text())
    assert "Perplexity first seed 5 270.0 40.0 90.0 50.0 3.25 dry" in shown
    assert "dry optimization.weight_decay: 0.0 seeds 5, 1" in shown and "255.0 −15.0 " in shown


def test_the_figure_has_a_dot_for_every_seed(made: MadeProject) -> None:
    from glassworks.report.figures import variants_figure
    from glassworks.report.reading import read_run
    from glassworks.report.variants import compare

    make_variants(made, VARIANTS, CIDER)
    context = made.context("v")
    settings = context.params["experiments"]["first"]
    comparison = compare(read_run("first", settings, context.inputs, 0, context.params["variants"]["first"]), 5)
    svg = variants_figure(comparison)
    assert all(f">{name}<" in svg for name in ("plain", "dry", "CIDEr-D", "Perplexity"))
    assert svg == variants_figure(comparison)
    assert [len(cell.values) for cell in comparison.lines[1].cells] == [3, 3, 2, 3, 3]
    assert len(re.findall(r"<use [^>]*fill-opacity: 0.6", svg)) == 2 * (3 + 3 + 2 + 3 + 3)


def test_undefined_metrics_leave_gaps(made: MadeProject, texts: Callable[[str], str]) -> None:
    variants = {"plain": {"seeds": [2]}, "dry": {"set": {"optimization.weight_decay": 0.0}, "seeds": [2]}}
    make_variants(made, variants, {"plain": {2: 2.5}, "dry": {2: 2.6}})
    shown = texts((made.report() / "report.html").read_text())
    assert "plain seed 2 250.0 40.0 – 50.0 3.25" in shown
    assert "dry optimization.weight_decay: 0.0 seed 2 260.0 +10.0 40.0 +0.0 – 50.0 +0.0 3.25 +0.00" in shown
