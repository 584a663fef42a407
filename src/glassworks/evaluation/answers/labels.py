"""Report labels for the answers of an instruction-tuned model."""

from typing import Any

from glassworks.evaluation.answers.settings import AnswersEvaluation
from glassworks.evaluation.labels import Column, Gallery, Labels, Row, Table, Tile, look_up, pointer

SYSTEMS = {
    "model": ("the model", "greedy answers", False),
    "few_shot": ("base, few shots", "its base after training conversations of the same kind", True),
    "base": ("base", "the weights with which its training began", True),
    "shuffled": ("shuffled instructions", "the model, asked another question of the same kind", True),
}
"""Title, explanation, and whether the system is a control."""


def labels(metrics: dict[str, Any], config: AnswersEvaluation) -> Labels:
    """Labels for the metrics of one evaluation."""
    model = metrics["systems"]["model"]
    columns: dict[tuple[str, ...], Column] = {
        ("exact",): _share("exact", "Exact", "answers that are the true one", drawn=True, phrase="exact answers")
    }
    if len(model["kinds"]) > 1:
        for kind, found in sorted(model["kinds"].items(), key=lambda entry: -entry[1]["questions"]):
            words = f"{found['questions']} questions of the kind {kind.replace('_', ' ')}"
            columns["kinds", kind, "exact"] = _share(
                f"exact_{kind}", kind.replace("_", " "), words, group="exact, by kind", drawn=kind == "json"
            )
    for field in model["fields"]:
        words = f"JSON answers with the right {field}"
        columns["fields", field] = _share(f"field_{field}", field, words, group="right field of JSON answers")
    columns["ended",] = _share("ended", "Ended", f"answers that end within {config.max_new_tokens} tokens")
    columns["loss",] = Column(
        name="loss", title="Loss", explanation="nats per token of the true responses", lower_is_better=True
    )
    rows = [
        Row(
            name=name,
            title=title,
            explanation=explanation,
            control=control,
            cells={
                column.name: pointer("systems", name, *where)
                for where, column in columns.items()
                if look_up(metrics["systems"][name], pointer(*where)) is not None
                and not (name == "shuffled" and where == ("ended",))
            },
        )
        for name, (title, explanation, control) in SYSTEMS.items()
        if name in metrics["systems"]
    ]
    tiles = [
        Tile(value=pointer("systems", "model", name), **columns[name,].model_dump()) for name in ("exact", "ended")
    ]
    notes = [
        f"{metrics['samples']:,} conversations of the {config.split} split; the model answers the last question of each.",
        "Answers are compared as texts up to white space, JSON answers as JSON.",
        f"The 95 % intervals ({config.bootstrap:,} bootstrap resamples) resample the questions about one fact together.",
    ]
    if forgetting := metrics["forgetting"]:
        tiles.append(
            Tile(
                name="forgetting",
                title=f"Forgetting of {forgetting['dataset']}",
                explanation="bits per byte under the model, less those under its base",
                unit=" bits",
                lower_is_better=True,
                value=pointer("forgetting", "difference"),
            )
        )
        before, after = (_number(forgetting[name]) for name in ("before", "after"))
        notes.append(
            f"{forgetting['dataset']} ({forgetting['texts']:,} texts of the {config.split} split): {before} bits per byte under the base, "
            f"{after} under the model."
        )
    answers = [(name, SYSTEMS[name][0]) for name in ("model", "few_shot", "base") if name in metrics["systems"]]
    return Labels(
        unit="questions",
        tiles=tiles,
        table=Table(
            title="Answers",
            columns=list(columns.values()),
            rows=rows,
            first="model",
            verdict=["exact_json", "exact"] if ("kinds", "json", "exact") in columns else ["exact"],
            notes=notes,
        ),
        items=Gallery(
            title="Held-out questions and answers",
            question="question",
            truth="expected",
            answers=answers,
            marks_in="marks",
            marks=["right", "ended"],
            counted="right",
            counted_for="model",
            counted_as="are right",
        ),
    )


def _share(name: str, title: str, explanation: str, **more: Any) -> Column:
    return Column(name=name, title=title, explanation=explanation, scale=100, digits=1, unit="%", **more)


def _number(interval: dict[str, float | None]) -> str:
    return "–" if interval["value"] is None else f"{interval['value']:.3f}"
