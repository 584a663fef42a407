"""Report labels for the scores and samples of a language model."""

from typing import Any

from glassworks.evaluation.labels import Column, Labels, Row, Table, Texts, Tile, pointer

BITS = Column(name="bits_per_byte", title="Bits per byte", phrase="bits per byte", lower_is_better=True)
BASELINES = {
    "gzip -9": "a compressor that looks back 32 kB",
    "xz -9": "a compressor that looks back through the whole split",
    "token bigram": "counts of pairs of the same tokens in the training split, Witten-Bell smoothing",
}


def labels(metrics: dict[str, Any]) -> Labels:
    """Labels for the metrics of one evaluation; baselines are ordered by score."""
    ordered = sorted(metrics["baselines"], key=lambda name: metrics["baselines"][name])
    return Labels(
        unit="texts",
        tiles=[
            Tile(value=pointer("bits_per_byte"), **BITS.model_dump() | {"digits": 2}),
            Tile(
                name="perplexity",
                title="Perplexity",
                explanation="exponential of the mean loss per token",
                digits=2,
                value=pointer("perplexity"),
            ),
        ],
        table=Table(
            title="Bits per byte",
            columns=[BITS],
            rows=[
                Row(name="model", title="the model", cells={"bits_per_byte": pointer("bits_per_byte")}),
                *(
                    Row(
                        name=name,
                        title=name,
                        explanation=BASELINES[name],
                        control=True,
                        cells={"bits_per_byte": pointer("baselines", name)},
                    )
                    for name in ordered
                ),
            ],
            first="model",
            controls="Baselines",
            verdict=["bits_per_byte"],
            notes=[
                f"Bits that a system needs for each byte of the {metrics['split']} split: {metrics['bytes']:,} bytes in "
                f"{metrics['samples']:,} texts, {metrics['tokens']:,} tokens for the model.",
                "Fewer is better; the measure does not depend on the tokenizer. The interval is a bootstrap over the texts.",
            ],
        ),
        items=Texts(title="Samples", label="temperature", prompt="prompt", text="text"),
    )
