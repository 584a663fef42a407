"""Report labels for the boards that a model solves."""

from typing import Any

from glassworks.evaluation.boards.settings import BoardsEvaluation
from glassworks.evaluation.labels import Column, Labels, Row, Table, Texts, Tile, pointer

BOARDS = Column(
    name="boards",
    title="Boards",
    explanation="boards with every cell right, in percent; the interval resamples boards",
    phrase="solved boards",
    scale=100,
    digits=1,
    unit="%",
    drawn=True,
)
COLUMNS = [
    BOARDS,
    Column(
        name="boards_by_class",
        title="Boards, by class",
        explanation="the same share; the interval resamples symmetry classes",
        scale=100,
        digits=1,
        unit="%",
    ),
    Column(
        name="cells",
        title="Cells",
        explanation="right cells, givens included, in percent",
        scale=100,
        digits=1,
        unit="%",
    ),
]


def labels(metrics: dict[str, Any], config: BoardsEvaluation) -> Labels:
    """Labels for the metrics of one evaluation."""
    first = _plural(metrics["steps"], "step")
    rows = [_row("model", f"{first}, as trained", "the model's own number of supervision steps", "model")]
    rows += [_row(depth, _plural(int(depth), "step"), "", "depths", depth) for depth in metrics["depths"]]
    if "tries" in metrics:
        of = f"on the first {metrics['tried_boards']:,} boards, {first}"
        for name in metrics["tries"]:
            title = _plural(int(name), "noisy try", "noisy tries") if name.isdigit() else f"tries: {name}"
            meaning = "the halting head chooses" if name.isdigit() else "without choice"
            rows.append(_row(f"tries: {name}", title, f"{of}; {meaning}", "tries", name))
    cells = {name: pointer("guessing", name) for name in ("boards", "cells")}
    rows.append(
        Row(name="guessing", title="guessing", explanation="empty cells filled at random", control=True, cells=cells)
    )
    notes = [
        f"{metrics['samples']:,} boards of {metrics['symmetry_classes']} symmetry classes of the {config.split} split, with "
        f"{metrics['givens']} givens in the mean. No board of these classes was trained on.",
        "A board is solved if all its cells are right. All rows use the same weights, and more steps continue the recursion of fewer.",
        f"Below each share its 95 % interval ({config.bootstrap:,} bootstrap resamples). It does not cover other training runs.",
    ]
    if "tries" in metrics:
        notes.append(
            f"A noisy try adds Gaussian noise of standard deviation {config.noise:g} to the latent state before every step (PTRM). `any` counts "
            "a board that at least one try solves: no choice can be better."
        )
    return Labels(
        unit="boards",
        tiles=[
            Tile(value=pointer("model", "boards"), **BOARDS.model_dump() | {"title": "Boards solved"}),
            Tile(
                name="halting_accuracy",
                title="Halting head",
                explanation="boards whose halting head knows whether the answer is right",
                scale=100,
                digits=1,
                unit="%",
                value=pointer("halting_accuracy"),
            ),
        ],
        table=Table(
            title="Boards solved by depth of the recursion",
            columns=COLUMNS,
            rows=rows,
            first="model",
            verdict=["boards"],
            notes=notes,
        ),
        items=Texts(
            title="The first boards; a star marks a wrong cell", label="board", text="grids", preformatted=True
        ),
    )


def _row(name: str, title: str, explanation: str, *where: str) -> Row:
    cells = {column.name: pointer(*where, column.name) for column in COLUMNS}
    return Row(name=name, title=title, explanation=explanation, cells=cells)


def _plural(count: int, one: str, several: str | None = None) -> str:
    return f"{count} {one if count == 1 else several or f'{one}s'}"
