"""The view in the terminal: a table of the stages that run or ended early, their losses and logs. It needs no extra."""

import time
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from glassworks.progress import clock
from glassworks.watch.observer import ACTIVE, STATES, Look, Observer, as_json
from glassworks.watch.wording import GLYPHS, KINDS, WORDS, headline, speed

SECONDS = 2.0
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH, LINES = 40, 4
COLOURS = {"running": "cyan", "killed": "red", "stopped": "red", "stale": "yellow", "missing": "dim", "fresh": "green"}
QUIET = 15.0
"""Seconds without a sign of life that are shown."""


def run(observer: Observer, console: Console) -> None:
    """Show the project until Ctrl-C; once, if the console is no terminal."""
    if not console.is_terminal:
        console.print(view(observer))
        return
    with Live(view(observer), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            time.sleep(SECONDS)
            live.update(view(observer), refresh=True)


def view(observer: Observer) -> RenderableType:
    """The project at this instant."""
    looks = list(observer.looks().values())
    counts = {state: sum(look.state == state for look in looks) for state in STATES}
    parts: list[RenderableType] = [Text(f"{observer.root.resolve().name}: {headline(counts)}", style="bold")]
    if observer.message:
        parts.append(Text(f"error: {observer.message}", style="red"))
    for look in looks:
        if look.state in ACTIVE:
            parts += ["", *_stage(observer, look)]
    parts += ["", _graph(looks)]
    return Group(*parts)


def _stage(observer: Observer, look: Look) -> Iterator[RenderableType]:
    line = Text.assemble(
        (f"{GLYPHS[look.state]} {look.stage.name}", f"bold {COLOURS[look.state]}"), f"  {WORDS[look.state]}"
    )
    if look.host:
        line.append(f" on {look.host}", style="dim")
    if look.why:
        line.append(f": {look.why}")
    if look.state == "running" and look.quiet is not None and look.quiet > QUIET:
        line.append(f"  no sign of life for {clock(look.quiet)}", style="yellow")
    yield line
    grid = Grid.grid(padding=(0, 2))
    for progress in look.progress:
        found = as_json(progress)
        grid.add_row(
            ProgressBar(total=progress.total, completed=progress.done, width=24),
            f"{progress.done:,}/{progress.total:,}",
            "" if found["loss"] is None else f"loss {found['loss']:g}",
            speed(progress),
            f"{clock(progress.left)} left",
            "" if found["memory"] is None else f"{found['memory']:g} GB",
        )
    if look.progress:
        yield grid
    if look.jobs_done is not None:
        yield Text(f"{look.jobs_done} of {look.stage.jobs} jobs done", style="dim")
    curves = observer.curves(look)
    if len(curves["training"]) > 1:
        (first, _), (last, _) = curves["training"][0], curves["training"][-1]
        losses = [loss for _, loss in curves["training"]]
        yield Text(f"{sparkline(losses)}  loss {losses[0]:.3g} to {losses[-1]:.3g}, steps {first:,.0f} to {last:,.0f}")
    if curves["resumed_after"]:
        yield Text(f"resumed after step {', '.join(f'{step:,}' for step in curves['resumed_after'])}", style="yellow")
    for text in observer.log(look)[-LINES:]:
        yield Text(f"  {text}", style="dim", no_wrap=True, overflow="ellipsis")


def sparkline(values: Sequence[float]) -> str:
    """At most `WIDTH` blocks, each the mean of consecutive values."""
    size = -(-len(values) // WIDTH)
    means = [sum(part) / len(part) for part in (values[at : at + size] for at in range(0, len(values), size))]
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((mean - low) / (high - low) * 7) if high > low else 0] for mean in means)


def _graph(looks: Sequence[Look]) -> RenderableType:
    """Every stage, a kind a line."""
    grid = Grid.grid(padding=(0, 2))
    for kind in [kind for kind in KINDS if any(look.stage.kind == kind for look in looks)]:
        line = Text()
        for look in looks:
            if look.stage.kind == kind:
                name = "-".join(filter(None, (look.stage.subject, look.stage.part))) or kind
                line.append(f"{GLYPHS[look.state]}\u00a0{name}", style=COLOURS[look.state])
                line.append("  ")
        grid.add_row(Text(kind, style="bold"), line)
    return grid
