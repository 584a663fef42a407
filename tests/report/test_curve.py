"""The figure of a table with a curve: the rows with a position, against a logarithmic axis."""

import re

import pytest

from glassworks.evaluation.labels import Column, Labels, Row, Table
from glassworks.report.figures import metrics_figure
from glassworks.report.reading import Artefact, Scores


def scores(curve: str) -> Scores:
    values = {"1": 0.1, "2": 0.3, "8": 0.9}
    rows = [
        Row(name=name, title=f"{name} steps", at=float(name), cells={"solved": f"/depths/{name}"}) for name in values
    ]
    rows.append(Row(name="other", title="a control", control=True, cells={"solved": "/other"}))
    column = Column(name="solved", title="Solved", scale=100, drawn=True)
    metrics = {
        "depths": {name: {"value": value, "low": value - 0.05, "high": value + 0.05} for name, value in values.items()},
        "other": 0.2,
    }
    labels = Labels(unit="boards", table=Table(columns=[column], rows=rows, first="1", curve=curve))
    return Scores("boards", {}, Artefact("", "", 0, 0, {}, {}), metrics, labels)


def words(figure: str) -> list[str]:
    return [re.sub(r"<[^>]+>", "", text).strip() for text in re.findall(r"<text.*?</text>", figure, re.DOTALL)]


def test_a_curve_has_its_positions_on_the_axis_and_no_other_row():
    found = words(metrics_figure({"boards": scores("steps")}))
    assert {"Solved", "steps", "1", "2", "8"} <= set(found)
    assert "a control" not in found and "8 steps" not in found


def test_without_a_curve_every_row_has_a_bar():
    found = words(metrics_figure({"boards": scores("")}))
    assert {"1 steps", "2 steps", "8 steps", "a control"} <= set(found)


def test_positions_are_spaced_by_their_logarithm():
    figure = metrics_figure({"boards": scores("steps")})
    ticks = [float(x) for x in re.findall(r'<text style="[^"]*middle[^"]*" x="([\d.]+)"', figure)][:3]
    assert ticks[2] - ticks[1] == pytest.approx(2 * (ticks[1] - ticks[0]), rel=1e-3)
