"""Report labels for the scores of retrieval."""

from typing import Any

from glassworks.evaluation.labels import Column, Curve, Gallery, Labels, Row, Table, Tile, pointer
from glassworks.evaluation.retrieval.settings import RetrievalEvaluation

GAIN = "ndcg@10"
SYSTEMS = [
    ("model", "the model", "similarity of the vectors of its heads", False),
    ("shuffled", "shuffled pairs", "the same similarities; every sample looks for the partner of another one", True),
    ("ridge", "ridge regression", "from the features of one encoder to those of the other, in closed form", True),
    ("asif", "ASIF", "by the similarities of each sample to the training pairs; nothing is trained", True),
    ("chance", "chance", "the expectation of a random order", True),
]
"""Name, title, explanation, and whether the system is a control."""
SPOKEN = {"audio": "speech"}
"""Words for modalities."""


def found_by(modality: str) -> str:
    """The field of an item that holds the text nearest to its image or its speech."""
    return f"found_by_{modality}"


def labels(metrics: dict[str, Any], config: RetrievalEvaluation, widths: list[int], finders: list[str]) -> Labels:
    """Labels for the metrics of one evaluation at these widths; with a gallery if items hold the text nearest to these `finders`."""
    columns, cells = [], {}
    for direction in metrics["systems"]["model"]:
        words = " ".join(SPOKEN.get(word, word) for word in direction.split("_"))
        group = f"{words} (emergent)" if direction in metrics["emergent"] else words
        for name in metrics["systems"]["model"][direction]:
            column = f"{direction}_{name.replace('@', '_')}"
            cells[column] = (direction, name)
            columns.append(_column(name, column, group, words))
    if len(metrics["systems"]["model"]) > 2:  # six directions: the figure has a panel for one recall of each
        columns = [column.model_copy(update={"drawn": column.title == "R@5"}) for column in columns]
    narrow = [
        (f"width_{width}", f"its first {width} numbers", "the prefix, normalised again", False) for width in widths[1:]
    ]
    rows = [
        Row(
            name=name,
            title=title,
            explanation=explanation,
            control=control,
            cells={column: pointer("systems", name, *where) for column, where in cells.items()},
        )
        for name, title, explanation, control in [SYSTEMS[0], *narrow, *SYSTEMS[1:]]
        if name in metrics["systems"]
    ]
    fifth = [column for column in columns if column.title == "R@5"]
    emergent = (
        ["A pair of modalities that training never brought together is marked as emergent."]
        if metrics["emergent"]
        else []
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
                f"Each query is ranked against all {metrics['samples']:,} candidates of the {config.split} split that have "
                "both modalities. Candidates as similar as the partner count as better.",
                f"Below each recall its 95 % interval ({config.bootstrap:,} bootstrap resamples of the queries). It covers the "
                "choice of queries, not other training runs.",
                *emergent,
            ],
        ),
        curve=Curve(
            title="Recall against width",
            x_title="numbers of the vectors",
            rows={name: width for width, name in zip(widths, ["model", *(one[0] for one in narrow)], strict=True)},
            columns=[column.name for column in fifth],
        )
        if narrow
        else None,
        items=Gallery(
            title="Held-out samples and the text nearest to each",
            truth="references",
            answers=[(found_by(name), f"nearest to its {SPOKEN.get(name, name)}") for name in finders],
            marks_in="hits",
            marks=["in the first 1", "in the first 5", "in the first 10"],
            counted="in the first 1",
            counted_for=found_by(finders[0]),
            counted_as="are the sample's own",
        )
        if finders
        else None,
    )


def _column(name: str, column: str, group: str, words: str) -> Column:
    """The column of a metric in one direction."""
    if name == "median_rank":
        explanation = "median over the queries"
        return Column(
            name=column, title="Median rank", explanation=explanation, group=group, lower_is_better=True, digits=1
        )
    if name == GAIN:
        explanation = "mean of 1 / log2(1 + rank) within the first ten: what MTEB reports"
        return Column(name=column, title="nDCG@10", explanation=explanation, group=group, digits=3)
    k = name.removeprefix("recall@")
    return Column(
        name=column,
        title=f"R@{k}",
        explanation=f"queries whose partner is among the first {k}, in percent",
        group=group,
        phrase=f"recall@{k}, {words}",
        scale=100,
        digits=1,
        unit="%",
        drawn=k != "10",
    )
