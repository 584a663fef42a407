"""Figures as reproducible SVG text: matplotlib without dates, random ids and the user's style.

A figure is drawn once in placeholder colours. `on_page` replaces them by the CSS variables of the page, so that the figure
follows light and dark mode. `standalone` replaces them by fixed colours on white, for Snakemake's report, DVC and slides.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from glassworks.evaluation.labels import Curve
from glassworks.report.reading import Curves, Run, Scores
from glassworks.report.variants import Comparison

INK, MUTED, RULE, FIRST, SECOND, QUIET, PAPER = (f"#{number:06x}" for number in range(0x0A0B01, 0x0A0B08))
"""Placeholder colours, unlikely to occur otherwise."""
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", FIRST: "first", SECOND: "second", QUIET: "quiet"}
FIXED = {
    INK: "#1d2023",
    MUTED: "#62686e",
    RULE: "#dddcd6",
    FIRST: "#0b6f79",
    SECOND: "#b7591a",
    QUIET: "#a9aeb2",
    PAPER: "#ffffff",
}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
STYLE = {
    "svg.hashsalt": "glassworks",
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.labelcolor": "linecolor",
}
WIDTH = 9.6
"""Width of a figure in inches. The page scales figures to its own width."""
BINS = 150
"""Maximum points of a training curve. Each point is the mean of consecutive steps, in a band from minimum to maximum."""
GROUPS, DASHES = (MUTED, "#6d78d6", "#8a8020", "#c4609a"), ("-", "--", ":")
"""Line styles of parameter groups: grey for parameters in no group, as in a run without groups; then colours that are
readable in light and dark mode and differ from those of the losses."""
CURVES = (FIRST, SECOND, *GROUPS[1:], MUTED)
"""Colours of the lines of a curve."""
FAR_APART = 5
"""Ratio between peak learning rates above which the scale is logarithmic."""


def loss_figure(runs: Sequence[Run]) -> str:
    """A figure of training and validation loss over steps, beside the learning rate. One row for each run with a log.

    The validation losses of variants are thin lines.
    """
    shown = {run.name: run.curves for run in runs if run.curves and run.curves.steps}
    others = {
        run.name: [
            other.curves
            for variant in run.variants
            for other in variant.runs.values()
            if other.curves and other.curves.validation_losses and other.name != run.name
        ]
        for run in runs
    }
    with _style():
        if not shown:
            return _note("No training run has a log of its loss.")
        names = [name for curves in shown.values() if curves.group_rates for name, _ in _named_rates(curves)]
        margin = 0.12 + 0.07 * max(map(len, names)) if names else 0.0
        right = 0.985 - margin / WIDTH
        figure, rows = _rows(list(shown), 3.1, (2.5, 1), left=0.032, right=right, gap=0.18, below=0.52)
        for (name, curves), (losses, rates) in zip(shown.items(), rows, strict=True):
            _draw_losses(losses, curves, others[name])
            _draw_rates(rates, curves)
        return _svg(figure)


def metrics_figure(evaluations: Mapping[str, Scores]) -> str:
    """Scores with 95 % intervals: one panel per metric, one row per evaluation. Keys are row headings.

    A panel has a bar for each system and control, or the curve of the table.
    """
    drawn = {name: drawn_columns(scores) for name, scores in evaluations.items()}
    shown = {name: evaluations[name] for name, columns in drawn.items() if columns}
    with _style():
        if not shown:
            return _note("No experiment has scores to draw.")
        most = max(len(drawn[name]) for name in shown)
        tallest = max(7 if scores.table.curve else len(scores.table.rows) for scores in shown.values())
        # Panels of one title, such as the recall of several directions, are told apart by the groups of their columns.
        titles = [[scores.table.column(column).title for column in drawn[name]] for name, scores in shown.items()]
        grouped = any(len(set(some)) < len(some) for some in titles)
        below = 0.42 if grouped else 0.08
        height = 0.55 + 0.3 * tallest + (below if grouped else 0)
        figure, rows = _rows(list(shown), height, (1,) * most, left=0.115, gap=0.12, below=below)
        for (name, scores), panels in zip(shown.items(), rows, strict=True):
            for axes in panels[len(drawn[name]) :]:
                axes.set_visible(False)
            for axes, column in zip(panels, drawn[name], strict=False):
                if scores.table.curve:
                    _draw_curve(axes, scores, column)
                else:
                    _draw_bars(axes, scores, column, labelled=axes is panels[0])
                if grouped:
                    axes.set_xlabel(scores.table.column(column).group.replace(" (", "\n("), fontsize=8, loc="left")
        return _svg(figure)


def variants_figure(comparison: Comparison) -> str:
    """A panel for each metric of the variants, one row of panels per evaluation: a dot per seed, the mean, and its 95 % interval.

    Thin lines join the dots of a seed.
    """
    places = groupby(range(len(comparison.columns)), key=lambda place: comparison.columns[place][0])
    grouped = {name: list(some) for name, some in places}
    lines = comparison.lines
    titles = [line.title if len(line.title) <= 24 else f"{line.title[:23]}…" for line in lines]
    with _style():
        left = (0.25 + 0.075 * max(map(len, titles))) / WIDTH
        widest, height = max(map(len, grouped.values())), 1.1 + 0.3 * len(lines)
        _, rows = _rows(list(grouped), height, (1,) * widest, left=left, gap=0.14, below=0.35)
        for columns, panels in zip(grouped.values(), rows, strict=True):
            for axes in panels[len(columns) :]:
                axes.set_visible(False)
            for axes, column in zip(panels, columns, strict=False):
                _draw_seeds(axes, comparison, column)
                axes.set_yticks(range(len(lines)), titles if axes is panels[0] else [""] * len(lines))
                for label in axes.get_yticklabels():
                    label.set_color(INK)
        return _svg(rows[0][0].figure)


def curve_figure(scores: Scores, curve: Curve) -> str:
    """A line for each column of the curve, over the numbers of its rows, in a band of the 95 % intervals."""
    table, places = scores.table, sorted(curve.rows, key=lambda name: curve.rows[name])
    with _style():
        right = 0.82
        figure, [[axes]] = _rows([""], 3.1, (1,), left=0.06, right=right, gap=0.0, below=0.52)
        ends = []
        for number, name in enumerate(curve.columns):
            column = table.column(name)
            found = [(curve.rows[row], scores.cell(table.row(row), name)) for row in places]
            drawn = [(at, cell) for at, cell in found if cell]
            colour = CURVES[number % len(CURVES)]
            values = np.array(
                [[cell.value, *(cell.value if bound is None else bound for bound in cell[1:])] for _, cell in drawn]
            )
            at, values = [at for at, _ in drawn], column.scale * values.reshape(-1, 3)
            axes.plot(at, values[:, 0], color=colour, marker="o", markersize=3.5, clip_on=False)
            axes.fill_between(at, values[:, 1], values[:, 2], color=colour, alpha=0.1, linewidth=0)
            ends.append((values[-1, 0] if len(values) else 0.0, column.group, colour))
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(curve.rows.values()), [f"{value:g}" for value in sorted(curve.rows.values())])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        axes.set_xlabel(curve.x_title)
        axes.set_title(f"{table.column(curve.columns[0]).title} in {table.column(curve.columns[0]).unit or 'units'}")
        heights = _spread([value / axes.get_ylim()[1] for value, _, _ in ends], 0.16 * figure.dpi / axes.bbox.height)
        for (_, group, colour), height in zip(ends, heights, strict=True):
            axes.text(1.02, height, group, transform=axes.transAxes, va="center", fontsize=9, color=colour)
        return _svg(figure)


def drawn_columns(scores: Scores) -> list[str]:
    """Names of the columns of an evaluation that have a panel."""
    if scores.labels.table is None:
        return []
    return [
        column.name
        for column in scores.table.columns
        if column.drawn and any(scores.cell(row, column.name) for row in scores.table.rows)
    ]


def on_page(svg: str, prefix: str, label: str) -> str:
    """The figure for embedding in an HTML page: colours and font of the page, ids unique by `prefix`, scalable."""
    for placeholder, name in VARIABLES.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    svg = svg[svg.index("<svg") :].replace(PAPER, "none").replace(FONTS, "inherit")
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # a style element would apply to the whole page
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def standalone(svg: str) -> str:
    """The figure as a standalone file, with fixed colours on white."""
    for placeholder, colour in FIXED.items():
        svg = svg.replace(placeholder, colour)
    return svg


def _draw_losses(axes: Axes, curves: Curves, variants: Sequence[Curves]) -> None:
    steps, mean, low, high = _binned(curves.steps, curves.losses)
    axes.fill_between(steps, low, high, color=FIRST, alpha=0.16, linewidth=0)
    axes.plot(steps, mean, color=FIRST, label="training")
    for number, other in enumerate(variants):
        axes.plot(
            other.validation_steps,
            other.validation_losses,
            color=QUIET,
            linewidth=0.8,
            label="" if number else "variants, validation",
        )
    if validation := curves.validation_losses:
        axes.plot(
            curves.validation_steps,
            validation,
            color=SECOND,
            marker="o" if len(validation) <= 40 else "",
            markersize=4,
            clip_on=False,
            zorder=3,
            label="validation",
        )
        _ring_lowest(axes, curves)
    names = [*curves.parts, *(name for name in curves.validation_parts if name not in curves.parts)]
    for number, name in enumerate(names):
        colour = GROUPS[number % len(GROUPS)]
        if name in curves.parts:
            at, values, _, _ = _binned(*curves.parts[name])
            axes.plot(at, values, color=colour, linewidth=1, label=name)
        if name in curves.validation_parts:
            axes.plot(*curves.validation_parts[name], "--", color=colour, linewidth=1, label=f"{name}, validation")
    axes.legend(loc="upper right")
    axes.set_title("Loss")
    axes.set_xlabel("step")
    _frame(axes, max([curves.steps[-1], *(other.validation_steps[-1] for other in variants)]))
    drawn = [
        *curves.losses,
        *curves.validation_losses,
        *(loss for other in variants for loss in other.validation_losses),
        *(value for _, values in (*curves.parts.values(), *curves.validation_parts.values()) for value in values),
    ]
    finite = np.array([value for value in drawn if np.isfinite(value)])
    if len(finite) and finite.min() >= 0:
        axes.set_ylim(0, 1.06 * max(np.percentile(finite, 99.5), max(mean, default=0), 1e-9))


def _ring_lowest(axes: Axes, curves: Curves) -> None:
    """Draw a ring around the lowest validation loss, if there are at least two finite losses."""
    pairs = zip(curves.validation_losses, curves.validation_steps, strict=True)
    if len(found := [pair for pair in pairs if np.isfinite(pair[0])]) > 1:
        loss, step = min(found)
        axes.plot(
            step, loss, "o", color=SECOND, fillstyle="none", markersize=8, clip_on=False, zorder=3, label="lowest"
        )


def _draw_rates(axes: Axes, curves: Curves) -> None:
    axes.set_title("Learning rate")
    axes.set_xlabel("step")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e-0", "e-")))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    _frame(axes, curves.steps[-1])
    if curves.group_rates:
        _draw_groups(axes, curves)
    elif curves.learning_rates:
        axes.plot(curves.steps, curves.learning_rates, color=MUTED)
        axes.set_ylim(0, 1.12 * max(*curves.learning_rates, 1e-12))


def _draw_groups(axes: Axes, curves: Curves) -> None:
    """Draw a learning rate line for each group, labelled at its end, with gaps where the group is frozen."""
    lines = _named_rates(curves)
    peaks = [np.nanmax(rates) for _, rates in lines if not np.isnan(rates).all()] or [1.0]
    if max(peaks) > FAR_APART * min(peaks):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(min(peaks) / 50, 2 * max(peaks))
    else:
        axes.set_ylim(0, 1.12 * max(peaks))
    ends: list[float] = []
    for number, (_, rates) in enumerate(lines):
        shared = sum(np.mean(rates == other) > 1 / 3 for _, other in lines[:number])  # dashed, to show the line below
        dashes = (4 * shared, (4, 8)) if shared else DASHES[number // len(GROUPS) % len(DASHES)]
        axes.plot(curves.steps, rates, color=GROUPS[number % len(GROUPS)], linestyle=dashes)
        last = rates[rates > 0][-1] if (rates > 0).any() else axes.get_ylim()[0]
        ends.append(axes.transLimits.transform(axes.transScale.transform((0, last)))[1])
    heights = _spread(ends, 0.16 * axes.figure.dpi / axes.bbox.height)
    for number, ((name, _), height) in enumerate(zip(lines, heights, strict=True)):
        colour = GROUPS[number % len(GROUPS)]
        axes.text(1.04, height, name, transform=axes.transAxes, va="center", fontsize=9, color=colour)


def _named_rates(curves: Curves) -> list[tuple[str, np.ndarray]]:
    """Labels and learning rates of the parameters in no group and of each group; NaN where the group is frozen."""
    lines = []
    for name, rates in {"default": curves.learning_rates, **curves.group_rates}.items():
        shown, trained = name if len(name) <= 16 else f"{name[:15]}…", np.where(np.array(rates) > 0, rates, np.nan)
        if rates:
            lines.append((f"{shown} (frozen)" if np.isnan(trained).all() else shown, trained))
    return lines


def _spread(heights: Sequence[float], apart: float) -> list[float]:
    """The heights moved at least `apart` from each other, in the same order, within a panel from 0 to 1. Less apart if there is no room."""
    lowest, highest = 0.03, 1.0
    apart = min(apart, (highest - lowest) / len(heights))
    order, moved = np.argsort(heights, kind="stable"), np.clip(heights, lowest, highest)
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + apart)
    for place in reversed(order):
        moved[place] = min(moved[place], highest)
        highest = moved[place] - apart
    return moved.tolist()


def _frame(axes: Axes, last_step: float) -> None:
    axes.set_xlim(0, last_step)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, prune=None))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _draw_bars(axes: Axes, scores: Scores, name: str, labelled: bool) -> None:
    rows, column = scores.table.rows, scores.table.column(name)
    axes.set_title(column.title)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row.title for row in rows] if labelled else [""] * len(rows))
    for label in axes.get_yticklabels():
        label.set_color(INK)
    cells = [scores.cell(row, name) for row in rows]
    highest = max((cell.value if cell.high is None else cell.high for cell in cells if cell), default=0)
    axes.set_xlim(0, 1.42 * max(highest, 1e-9))
    for place, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        if not cell:
            axes.text(0, place, " –", va="center", color=MUTED, fontsize=9)
            continue
        axes.barh(place, cell.value, height=0.5, color=QUIET if row.control else FIRST)
        low, high = (cell.value if bound is None else bound for bound in (cell.low, cell.high))
        axes.hlines(place, low, high, color=INK, linewidth=1.3)
        value = f"{column.scale * cell.value:.{column.digits}f}"
        axes.text(high + 0.03 * axes.get_xlim()[1], place, value, va="center", fontsize=9)
    axes.axvline(0, color=RULE, linewidth=1)


def _draw_curve(axes: Axes, scores: Scores, name: str) -> None:
    column = scores.table.column(name)
    points = [(row.at, cell) for row in scores.table.rows if row.at and (cell := scores.cell(row, name))]
    positions, values = [at for at, _ in points], [cell.value for _, cell in points]
    bounds = [[cell.value if bound is None else bound for bound in (cell.low, cell.high)] for _, cell in points]
    axes.set_title(column.title)
    axes.set_xlabel(scores.table.curve)
    axes.set_xscale("log", base=2)
    axes.set_xticks(positions, [f"{at:g}" for at in positions])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{column.scale * value:g}"))
    axes.set_ylim(0, 1.06 * max([high for _, high in bounds], default=0) or 1.0)
    if points:
        axes.fill_between(positions, *zip(*bounds, strict=True), color=FIRST, alpha=0.16, linewidth=0)
        axes.plot(positions, values, color=FIRST, marker="o", markersize=4, clip_on=False, zorder=3)


def _draw_seeds(axes: Axes, comparison: Comparison, column: int) -> None:
    tile, cells = comparison.columns[column][1], [line.cells[column] for line in comparison.lines]
    axes.set_title(tile.title)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{tile.scale * value:.{tile.digits}f}"))
    values = [value for cell in cells for value in cell.values.values()]
    if not values:
        return
    margin = 0.5 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
    axes.set_xlim(min(values) - margin, max(values) + margin)  # an interval of two or three seeds may be far wider
    for seed in dict.fromkeys(seed for cell in cells for seed in cell.values):
        points = [(cell.values[seed], place) for place, cell in enumerate(cells) if seed in cell.values]
        axes.plot(*zip(*points, strict=True), color=RULE, linewidth=1)
    for place, cell in enumerate(cells):
        colour = FIRST if place else MUTED
        axes.plot(list(cell.values.values()), [place] * len(cell.values), "o", color=colour, markersize=5, alpha=0.6)
        if cell.mean and cell.mean.low is not None and cell.mean.high is not None:
            axes.hlines(place, cell.mean.low, cell.mean.high, color=INK, linewidth=1.2)
            axes.vlines(cell.mean.value, place - 0.22, place + 0.22, color=INK, linewidth=1.6)


def _binned(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Mean step, mean, minimum and maximum of at most `BINS` bins of consecutive steps. Non-finite values are skipped."""
    pairs = [(step, value) for step, value in zip(steps, values, strict=True) if np.isfinite(value)]
    if not pairs:
        return [steps[-1]], [float("nan")], [float("nan")], [float("nan")]
    parts = np.array_split(np.array(pairs), min(BINS, max(1, len(pairs) // 2)))
    points = [(part[:, 0].mean(), part[:, 1].mean(), part[:, 1].min(), part[:, 1].max()) for part in parts]
    step, mean, low, high = (list(column) for column in zip(*points, strict=True))
    return step, mean, low, high


def _rows(
    names: Sequence[str],
    height: float,
    widths: Sequence[float],
    *,
    left: float,
    gap: float,
    below: float,
    right: float = 0.985,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a row of panels for each name, at fixed positions, so that the layout does not depend on fonts.

    Lengths are in inches, except `left` and `right` (fractions of the width) and `gap` (a fraction of a panel). Names are
    shown if there are several.
    """
    above = 0.42 if len(names) == 1 else 0.85
    height += above - 0.42
    total = height * len(names)
    figure = Figure(figsize=(WIDTH, total), facecolor=PAPER)
    FigureCanvasSVG(figure)
    grid = figure.add_gridspec(len(names), len(widths), width_ratios=widths)
    between = (above + below) / (height - above - below)
    grid.update(left=left, right=right, top=1 - above / total, bottom=below / total, wspace=gap, hspace=between)
    for row, name in enumerate(names if len(names) > 1 else []):
        figure.text(0.008, 1 - (row * height + 0.2) / total, name, fontsize=11, fontweight="bold", va="center")
    return figure, [
        [figure.add_subplot(grid[row, column]) for column in range(len(widths))] for row in range(len(names))
    ]


def _note(text: str) -> str:
    figure = Figure(figsize=(WIDTH, 1), facecolor=PAPER)
    FigureCanvasSVG(figure)
    figure.text(0.5, 0.5, text, ha="center", va="center", color=MUTED)
    return _svg(figure)


@contextmanager
def _style() -> Iterator[None]:
    """Use matplotlib's defaults and `STYLE`, and ignore the user's matplotlibrc."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return re.sub(r"'DejaVu Sans'[^;\"]*", FONTS, file.getvalue())
