"""Scores of captioning systems beside controls, as metrics.json holds them.

A system is a way of answering with one caption per image. "greedy" and "beam" decode the model; the controls bound what
a score means: "blank" captions an empty image, "shuffled" gives every image the caption of another, "most_frequent"
says the same training caption to all. A model that does not look at its image scores no better than they do.
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
    """Every score of every system, each with its 95 % interval over images, as JSON.

    `predictions` maps a system's name to its captions by key. Where labels hold "objects", captions are also held to
    them (`evaluation.facts`). Returns {"samples": n, "systems": {name: {metric: {"value", "low", "high"}}}}; metrics
    are cider, bleu1 to bleu4, rouge_l, meteor if asked for (it needs Java), and objects, counts, relations. Raises `DataError` when keys do not agree.
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
    """The lines of items.jsonl, one per image in order: what each system said, what is true, and which facts it got.

    {"key", one caption under the name of each system, "references", "labels"}, and for composed scenes "facts"
    {system: {objects, counts, relations, ground}}, each true, false or null (`evaluation.facts.Judgement`).
    """
    judged = {name: judge_all(labels, captions) for name, captions in predictions.items()}
    for key, captions in references.items():
        row = {"key": key, "references": captions, "labels": labels.get(key, {})}
        row.update({name: found[key] for name, found in predictions.items()})
        facts = {name: found[key].as_json() for name, found in judged.items() if key in found}
        yield {**row, "facts": facts} if facts else row


def _fact_intervals(judged: list[Judgement], resamples: int, seed: int) -> dict[str, Any]:
    """For every kind of fact the share that is right, of those images where it can be asked."""
    row = {}
    for fact in FACTS:
        asked = [getattr(judgement, fact) is not None for judgement in judged]
        right = [getattr(judgement, fact) is True for judgement in judged]
        row[fact] = ratio_interval(right, asked, resamples=resamples, seed=seed)
    return row


def most_frequent_caption(train_captions: Iterable[str]) -> str:
    """The caption that stands most often in the training split: the best one can say without looking.

    Among equals (where every caption is its own) the one whose words are the most common, then the first by alphabet,
    so the order of the captions never matters. Raises `DataError` when there is none.
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
