"""Report labels for the scores of retrieval."""

from typing import Any

from glassworks.evaluation.labels import Column, Gallery, Labels, Row, Table, Tile, pointer
from glassworks.evaluation.retrieval.settings import RetrievalEvaluation

SYSTEMS = [
    ("model", "the model", "similarity of the vectors of its heads", False),
    ("shuffled", "shuffled pairs", "the same similarities; every sample looks for the partner of another one", True),
    ("chance", "chance", "the expectation of a random order", True),
]
"""Name, title, explanation, and whether the system is a control."""
FOUND = "found"
"""The field of an item that holds the text nearest to its image."""


def labels(metrics: dict[str, Any], config: RetrievalEvaluation, pictured: bool) -> Labels:
    """Labels for the metrics of one evaluation; with a gallery if images with texts were `pictured`."""
    columns, cells = [], {}
    for direction, scores in metrics["systems"]["model"].items():
        words = direction.replace("_", " ")
        for name in scores:
            k = name.removeprefix("recall@")
            column = f"{direction}_{name.replace('@', '_')}"
            cells[column] = (direction, name)
            if name == "median_rank":
                columns.append(
                    Column(
                        name=column,
                        title="Median rank",
                        explanation="median over the queries",
                        group=words,
                        lower_is_better=True,
                        digits=1,
                    )
                )
                continue
            columns.append(
                Column(
                    name=column,
                    title=f"R@{k}",
                    explanation=f"queries whose partner is among the first {k}, in percent",
                    group=words,
                    phrase=f"recall@{k}, {words}",
                    scale=100,
                    digits=1,
                    unit="%",
                    drawn=k != "10",
                )
            )
    rows = [
        Row(
            name=name,
            title=title,
            explanation=explanation,
            control=control,
            cells={column: pointer("systems", name, *where) for column, where in cells.items()},
        )
        for name, title, explanation, control in SYSTEMS
    ]
    fifth = [column for column in columns if column.title == "R@5"]
    gallery = Gallery(
        title="Held-out images and the text nearest to each",
        truth="references",
        answers=[(FOUND, "nearest text")],
        marks_in="hits",
        marks=["in the first 1", "in the first 5", "in the first 10"],
        counted="in the first 1",
        counted_for=FOUND,
        counted_as="are the image's own",
    )
    return Labels(
        unit="samples",
        tiles=[
            Tile(value=rows[0].cells[column.name], **column.model_dump() | {"title": f"R@5, {column.group}"})
            for column in fifth
        ],
        table=Table(
            title="Retrieval",
            columns=columns,
            rows=rows,
            first="model",
            verdict=[column.name for column in fifth[:1]],
            notes=[
                f"Each query is ranked against all {metrics['samples']:,} candidates of the {config.split} split. Candidates as "
                "similar as the partner count as better.",
                f"Below each recall its 95 % interval ({config.bootstrap:,} bootstrap resamples of the queries). It covers the "
                "choice of queries, not other training runs.",
            ],
        ),
        items=gallery if pictured else None,
    )
