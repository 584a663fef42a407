"""The evaluation `accuracy`."""

from collections import Counter
from typing import Any

import torch
from glassworks.evaluation.accuracy.settings import Accuracy

from glassworks.evaluation.bootstrap import mean_interval
from glassworks.evaluation.labels import Column, Gallery, Labels, Row, Table, Tile, pointer
from glassworks.evaluation.scoring import Item, Scoring

COLUMN = Column(name="accuracy", title="Accuracy", scale=100, digits=1, unit="%", drawn=True)


def run(scoring: Scoring, config: Accuracy, task: Any, model: torch.nn.Module) -> int:
    """Score the split."""
    dataset, count = scoring.scored(config)
    names = task.config.names

    @torch.inference_mode()
    def score(batch: range) -> list[Item]:
        collated = task.collate([task.example(dataset[index], scoring.part, 0) for index in batch])
        answers = model(collated.features).argmax(1)
        return [
            {"key": key, "answer": names[answer], "truth": [names[target]]}
            for key, answer, target in zip(collated.keys, answers.tolist(), collated.targets.tolist(), strict=True)
        ]

    rows = scoring.in_batches(count, 8, score, "images")
    if not scoring.workers.first:
        return count
    training = scoring.training()
    seen = Counter(training[index].json()["labels"]["colour"] for index in range(len(training)))
    [(frequent, _)] = seen.most_common(1)
    options = {"resamples": config.bootstrap, "seed": scoring.seed}
    metrics = {
        "samples": count,
        "split": config.split,
        "systems": {
            "model": {"accuracy": mean_interval([row["answer"] in row["truth"] for row in rows], **options)},
            "frequent": {"accuracy": mean_interval([frequent in row["truth"] for row in rows], **options)},
        },
    }
    cells = {name: {"accuracy": pointer("systems", name, "accuracy")} for name in metrics["systems"]}
    labels = Labels(
        unit="images",
        tiles=[Tile(value=cells["model"]["accuracy"], **COLUMN.model_dump())],
        table=Table(
            columns=[COLUMN],
            rows=[
                Row(name="model", title="the model", cells=cells["model"]),
                Row(name="frequent", title="most frequent class", control=True, cells=cells["frequent"]),
            ],
            first="model",
            verdict=["accuracy"],
        ),
        items=Gallery(title="Images", truth="truth", answers=[("answer", "model")]),
    )
    images = ((f"{dataset[index].key}.png", bytes(dataset[index].members["png"])) for index in range(min(count, 12)))
    scoring.write(metrics, labels, rows, images)
    return count
