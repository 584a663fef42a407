"""Report labels for the scores of questions."""

from typing import Any

from glassworks.evaluation.labels import Column, Gallery, Labels, Row, Table, Tile, pointer
from glassworks.evaluation.questions.settings import QuestionsEvaluation

SYSTEMS = [
    ("model", "the model", "greedy answers", False),
    ("shuffled", "shuffled {medium}", "the model sees another {one} of the split", True),
    ("shuffled_frames", "shuffled frames", "the model sees the frames of the clip in a random order", True),
    ("one_frame", "one frame", "the model sees the middle frame of the clip at all times", True),
    ("blank", "grey {medium}", "every {one} is grey all over", True),
    ("no_image", "question only", "the features of the image are zero", True),
    ("majority", "majority", "the most frequent answer to this kind of question in training", True),
]
"""Name, title, explanation, and whether the system is a control."""
DISTANCE, CIDER, RIGHT = "distance", "cider", "right"


def labels(metrics: dict[str, Any], config: QuestionsEvaluation) -> Labels:
    """Labels for the metrics of one evaluation."""
    pointing, one = metrics["pointing"], "clip" if "clips" in metrics else "image"
    columns, cells = [], {}
    for kind, count in metrics["questions"].items():
        name = kind.replace(" ", "_")
        cells[name] = kind
        columns.append(
            Column(
                name=name,
                title=kind,
                explanation=f"{count:,} questions; "
                + ("points inside an object of their own" if kind in pointing else "right answers")
                + ", in percent",
                phrase=f"answers to {kind!r}",
                scale=100,
                digits=1,
                unit="%",
                drawn=True,
            )
        )
    if pointing:
        cells[DISTANCE] = DISTANCE
        columns.append(
            Column(
                name=DISTANCE,
                title="distance",
                explanation="from the middle of an object to the nearest point, in percent of the side of the image",
                digits=1,
                lower_is_better=True,
            )
        )
    if captions := metrics["captions"]:
        cells[CIDER] = CIDER
        columns.append(
            Column(
                name=CIDER,
                title="CIDEr-D",
                explanation=f"answers to {' and '.join(map(repr, captions))}: n-grams shared with the references, weighted by how rare they are",
                phrase="CIDEr-D of its captions",
                digits=2,
            )
        )
    rows = [
        Row(
            name=name,
            title=title.format(medium=f"{one}s"),
            explanation=explanation.format(one=one),
            control=control,
            cells={column: pointer("systems", name, where) for column, where in cells.items()},
        )
        for name, title, explanation, control in SYSTEMS
        if name in metrics["systems"]
    ]
    kinds = [column for column in columns if column.name not in (DISTANCE, CIDER)]
    return Labels(
        unit=f"{one}s",
        tiles=[Tile(value=rows[0].cells[column.name], **column.model_dump()) for column in kinds],
        table=Table(
            title="Questions",
            columns=columns,
            rows=rows,
            first="model",
            verdict=[column.name for column in kinds],
            notes=[
                f"Below each score its 95 % interval ({config.bootstrap:,} bootstrap resamples of the {one}s). It covers the choice of {one}s, not other "
                "training runs.",
            ],
        ),
        items=Gallery(
            title=f"Held-out {one}s, one question of each",
            question="question",
            truth="truth",
            answers=[(row.name, row.title) for row in rows[:2]],
            marks_in="marks",
            marks=[RIGHT],
            counted=RIGHT,
            counted_for="model",
            counted_as="are right",
        ),
    )
