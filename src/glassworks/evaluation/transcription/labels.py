"""Report labels for the scores of transcriptions and captions."""

from typing import Any

from glassworks.evaluation.labels import Column, Gallery, Labels, Row, Table, Tile, pointer
from glassworks.evaluation.transcription.settings import TranscriptionEvaluation

ALL, SHUFFLED, NONE = "all", "shuffled", "none"
"""Systems beside the modalities alone."""
EXACT = "exact"
SPOKEN = {"audio": "speech"}
"""Words for modalities."""
COLUMNS = [
    Column(
        name="wer",
        title="WER",
        explanation="edits of words per word of the first text, in percent",
        phrase="word error rate",
        scale=100,
        digits=1,
        unit="%",
        lower_is_better=True,
        drawn=True,
    ),
    Column(
        name="cer",
        title="CER",
        explanation="edits of characters per character of the first text, in percent",
        phrase="character error rate",
        scale=100,
        digits=1,
        unit="%",
        lower_is_better=True,
    ),
    Column(
        name=EXACT,
        title="Exact",
        explanation="texts with the words of the first text, in percent",
        phrase="exact texts",
        scale=100,
        digits=1,
        unit="%",
        drawn=True,
    ),
    Column(
        name="cider",
        title="CIDEr-D",
        explanation="n-grams shared with all texts of the sample, weighted by how rare they are, times 100",
        scale=100,
        digits=1,
        drawn=True,
    ),
]


def labels(metrics: dict[str, Any], config: TranscriptionEvaluation) -> Labels:
    """Labels for the metrics of one evaluation."""
    alone = [name for name in metrics["modalities"] if name in metrics["systems"]]
    known = [SPOKEN.get(name, name) for name in metrics["modalities"]]
    systems = [
        (ALL, " and ".join(known), "every modality of the sample", False),
        *((name, f"{SPOKEN.get(name, name)} alone", "the other modalities are hidden", False) for name in alone),
        (SHUFFLED, "shuffled", "the modalities of another sample of the split", True),
        (NONE, "none", "no modality: the language model alone", True),
    ]
    rows = [
        Row(
            name=name,
            title=title,
            explanation=explanation,
            control=control,
            cells={column.name: pointer("systems", name, column.name) for column in COLUMNS},
        )
        for name, title, explanation, control in systems
    ]
    return Labels(
        unit="samples",
        tiles=[
            Tile(value=row.cells["wer"], **COLUMNS[0].model_dump() | {"title": f"WER, {row.title}"})
            for row in rows
            if not row.control
        ],
        table=Table(
            title="Transcription",
            columns=COLUMNS,
            rows=rows,
            first=ALL,
            verdict=["wer"],
            notes=[
                f"The {metrics['samples']:,} samples of the {config.split} split that have every modality. Words are compared in lower case and without "
                "punctuation.",
                f"Below each score its 95 % interval ({config.bootstrap:,} bootstrap resamples of the samples). It covers the choice of samples, not other "
                "training runs.",
            ],
        ),
        items=Gallery(
            title="Held-out samples",
            truth="references",
            answers=[(name, title) for name, title, _, control in systems if not control],
            marks_in="marks",
            marks=[EXACT],
            counted=EXACT,
            counted_for=ALL,
            counted_as="are exact",
        ),
    )
