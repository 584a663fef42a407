"""Report labels for the scores and captions of a captioner."""

from typing import Any

from glassworks.evaluation.captions.facts import FACTS
from glassworks.evaluation.captions.settings import CaptionsEvaluation
from glassworks.evaluation.labels import Column, Gallery, Labels, Row, Table, Tile, pointer


def _column(name: str, title: str, explanation: str, group: str, **more: Any) -> Column:
    return Column(name=name, title=title, explanation=explanation, group=group, scale=100, digits=1, **more)


REFERENCES, EXACT = "against the reference captions", "against the exact labels"
COLUMNS = [
    _column(
        "cider", "CIDEr-D", "n-grams shared with the references, weighted by how rare they are", REFERENCES, drawn=True
    ),
    _column("bleu1", "BLEU-1", "precision of words over the whole split", REFERENCES),
    _column("bleu2", "BLEU-2", "precision of words and pairs", REFERENCES),
    _column("bleu3", "BLEU-3", "up to three words in a row", REFERENCES),
    _column("bleu4", "BLEU-4", "up to four words in a row", REFERENCES, drawn=True),
    _column("rouge_l", "ROUGE-L", "longest common subsequence with a reference", REFERENCES, drawn=True),
    _column("meteor", "METEOR", "words shared with a reference, stems and synonyms too; mean over images", REFERENCES),
    _column(
        "objects",
        "Objects",
        "captions that name exactly the objects in the image",
        EXACT,
        drawn=True,
        unit="%",
        phrase="exact objects",
    ),
    _column("counts", "Counts", "captions with the right objects that also count them right", EXACT),
    _column(
        "relations",
        "Relations",
        "captions that state how objects are placed, with every relation right",
        EXACT,
        drawn=True,
        unit="%",
    ),
    _column("ground", "Ground", "captions that mention the background, with its colour and texture right", EXACT),
]
SYSTEMS = [
    ("greedy", "greedy", "the likeliest token at every step", False),
    ("beam", "beam search", "the likeliest of several captions", False),
    ("blank", "blank image", "the caption of an empty image", True),
    ("shuffled", "shuffled images", "every image gets the caption of another one", True),
    ("most_frequent", "most frequent", "one training caption for every image", True),
]
"""Name, title, explanation, and whether the system is a control."""
FIRST = "beam"
TILES = ("cider", "bleu4", "objects", "relations")


def labels(metrics: dict[str, Any], config: CaptionsEvaluation) -> Labels:
    """Labels for the metrics of one evaluation."""
    columns = {column.name: column for column in COLUMNS if column.name in metrics["systems"][FIRST]}
    notes = [
        f"Times 100, as papers print them; below each score its 95 % interval ({config.bootstrap:,} bootstrap resamples of the images).",
        "The intervals cover the choice of images, not other training runs.",
        "CIDEr-D weights words by these references, so it compares only with scores on the same images.",
    ]
    if "meteor" not in columns:
        notes.append("METEOR was left out: it needs Java.")
    if metrics.get("cut_references"):
        notes.append(
            f"{metrics['cut_references']:,} of {metrics['references']:,} reference captions are longer than the model's max_tokens; "
            "perplexity counts their beginnings only."
        )
    tiles = [
        Tile(value=pointer("systems", FIRST, name), **columns[name].model_dump()) for name in TILES if name in columns
    ]
    tiles.append(
        Tile(
            name="perplexity",
            title="Perplexity",
            explanation="exponential of the mean loss per token of the reference captions, given the image",
            digits=2,
            value=pointer("perplexity"),
        )
    )
    rows = [
        Row(
            name=name,
            title=title,
            explanation=explanation,
            control=control,
            cells={column: pointer("systems", name, column) for column in columns},
        )
        for name, title, explanation, control in SYSTEMS
    ]
    return Labels(
        unit="images",
        tiles=tiles,
        table=Table(
            columns=list(columns.values()),
            rows=rows,
            first=FIRST,
            verdict=[name for name in ("objects", "cider") if name in columns],
            notes=notes,
        ),
        items=Gallery(
            title="Held-out images",
            truth="references",
            answers=[("greedy", "greedy"), ("beam", "beam search")],
            marks_in="facts",
            marks=list(FACTS),
            counted="objects",
            counted_for=FIRST,
            counted_as="name exactly the objects",
        ),
    )
