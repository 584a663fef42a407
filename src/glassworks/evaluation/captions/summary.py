"""Scores of captioning systems and controls, in the format of metrics.json.

A system gives one caption per image. "greedy" and "beam" decode the model. The controls do not use the image: "blank"
captions an empty image, "shuffled" gives each image the caption of another image, "most_frequent" gives all images the
same training caption. A model that ignores the image scores no better than the controls.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

from glassworks.errors import DataError
from glassworks.evaluation.bootstrap import interval, mean_interval, ratio_interval
from glassworks.evaluation.captions import metrics as caption_metrics
from glassworks.evaluation.captions.facts import FACTS, Judgement, judge_all
from glassworks.evaluation.captions.words import words


def summarise(
    references: Mapping[str, list[str]],
    labels: Mapping[str, dict[str, Any]],
    predictions: Mapping[str, Mapping[str, str]],
    *,
    meteor: bool = False,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """All scores of all systems with their 95 % intervals over images, as JSON.

    Returns {"samples": n, "systems": {name: {metric: {"value", "low", "high"}}}}. `predictions` maps the name of a system
    to its captions by key. The metrics are cider, bleu1 to bleu4, rouge_l, and meteor if requested (it needs Java). Labels
    of composed scenes add objects, counts, relations and ground (`evaluation.captions.facts`). Raises `DataError` if the
    keys differ.
    """
    systems: dict[str, dict[str, Any]] = {}
    with caption_metrics.meteor_scorer() if meteor else nullcontext() as scorer:
        for name, captions in predictions.items():
            try:
                scores = caption_metrics.score(references, captions, scorer)
            except DataError as error:
                raise DataError(f"{name}: {error}") from None
            row = {"cider": mean_interval(scores.image_cider, resamples=resamples, seed=seed)}
            for order in range(1, caption_metrics.ORDERS + 1):
                bleu = lambda sums, order=order: caption_metrics.corpus_bleu(sums, order)  # noqa: E731
                row[f"bleu{order}"] = interval(scores.bleu_statistics, bleu, resamples=resamples, seed=seed)
            row["rouge_l"] = mean_interval(scores.image_rouge_l, resamples=resamples, seed=seed)
            if scores.image_meteor is not None:
                row["meteor"] = mean_interval(scores.image_meteor, resamples=resamples, seed=seed)
            judged = judge_all(labels, captions)
            if judged:
                row.update(_fact_intervals(list(judged.values()), resamples, seed))
            systems[name] = row
    return {"samples": len(references), "systems": systems}


def caption_rows(
    references: Mapping[str, list[str]],
    labels: Mapping[str, dict[str, Any]],
    predictions: Mapping[str, Mapping[str, str]],
) -> Iterator[dict[str, Any]]:
    """The rows of items.jsonl, one per image in order: captions of all systems, references, labels and judged facts.

    A row is {"key", "references", "labels"} plus one caption under the name of each system. Composed scenes also have
    "facts": {system: {objects, counts, relations, ground}}, each true, false or null (`evaluation.captions.facts.Judgement`).
    """
    judged = {name: judge_all(labels, captions) for name, captions in predictions.items()}
    for key, captions in references.items():
        row = {"key": key, "references": captions, "labels": labels.get(key, {})}
        row.update({name: found[key] for name, found in predictions.items()})
        facts = {name: found[key].as_json() for name, found in judged.items() if key in found}
        yield {**row, "facts": facts} if facts else row


def _fact_intervals(judged: list[Judgement], resamples: int, seed: int) -> dict[str, Any]:
    """For each kind of fact, the share of correct captions among those that can be judged, with its interval."""
    row = {}
    for fact in FACTS:
        asked = [getattr(judgement, fact) is not None for judgement in judged]
        right = [getattr(judgement, fact) is True for judgement in judged]
        row[fact] = ratio_interval(right, asked, resamples=resamples, seed=seed)
    return row


def most_frequent_caption(train_captions: Iterable[str]) -> str:
    """The most frequent caption of the training split: the best answer without looking at the image.

    Ties, such as all captions being distinct, go to the caption with the most common words, then to the first in
    alphabetical order. The order of the captions does not matter. Raises `DataError` if there is no caption.
    """
    counts = Counter(caption.strip() for caption in train_captions)
    counts.pop("", None)
    if not counts:
        raise DataError("the training split holds no caption")
    most = max(counts.values())
    tied = {caption: set(words(caption)) for caption, count in counts.items() if count == most}
    common = Counter(word for distinct in tied.values() for word in distinct)

    def rank(caption: str) -> tuple[float, str]:
        distinct = tied[caption]
        return -sum(common[word] for word in distinct) / max(len(distinct), 1), caption

    return min(tied, key=rank)
