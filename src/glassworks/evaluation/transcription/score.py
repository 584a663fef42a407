"""The evaluation `transcription`: the text of each held-out sample by a fused decoder, from all its modalities and from each alone.

The controls are the modalities of another sample, and none, which leaves the plain language model. All systems are scored on the samples that have every
modality, so their scores compare.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from glassworks.data.reading.captions import captions_of
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.features import PRESENT, FeatureRow
from glassworks.data.reading.rows import Rows
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import DataError
from glassworks.evaluation.bootstrap import mean_interval, ratio_interval
from glassworks.evaluation.captions import metrics as caption_metrics
from glassworks.evaluation.media import media
from glassworks.evaluation.scoring import Item, Scoring, exchanged
from glassworks.evaluation.transcription.errors import character_errors, word_errors
from glassworks.evaluation.transcription.labels import ALL, EXACT, NONE, SHUFFLED, labels
from glassworks.evaluation.transcription.settings import TranscriptionEvaluation
from glassworks.generation.decoding import decode_fused
from glassworks.generation.settings import Decoding
from glassworks.models.fused_decoder import FusedDecoder
from glassworks.training.objective import to_device

GALLERY_SIZE = 60
"""Samples whose images and sounds are kept for the report's gallery."""


class FusedTask(Protocol):
    """A task whose models this evaluation can score."""

    tokenizer: TextTokenizer
    towers: Mapping[str, Any]
    """The features of each modality."""

    def arrange(self, dataset: ShardDataset) -> Rows[FeatureRow]:
        """The samples of a split with their features."""

    def example(self, row: Any, part: Any, seed: int) -> Any:
        """One sample as an example, with the options of its data set."""

    def collate(self, examples: list[Any]) -> Any:
        """Examples as a batch."""


def run(scoring: Scoring, config: TranscriptionEvaluation, task: FusedTask, model: FusedDecoder) -> int:
    """Write the text of every sample with every modality; returns the number of these samples."""
    dataset, count = scoring.scored(config)
    rows, tokenizer = task.arrange(dataset), task.tokenizer
    chosen = [index for index in range(count) if _has_all(rows[index])]
    if len(chosen) < 2:
        raise DataError(
            f"{dataset.directory}: the {config.split} split has {len(chosen)} samples with the modalities {', '.join(task.towers)}; scoring needs at least 2"
        )
    others = exchanged([rows[index].key for index in chosen], scoring.seed, "shuffled modalities")
    decoding = Decoding(max_new_tokens=min(config.max_new_tokens, model.config.text_tokens - 1))
    alone = list(task.towers) if len(task.towers) > 1 else []

    def score(batch: range) -> list[Item]:
        def features_of(indices: list[int]) -> dict[str, dict[str, Tensor]]:
            examples = [task.example(rows[chosen[index]], scoring.part, 0) for index in indices]
            found: dict[str, dict[str, Tensor]] = to_device(task.collate(examples), scoring.workers.device).features
            return found

        own = features_of(list(batch))
        seen = {ALL: own, **{name: _only(own, [name]) for name in alone}}
        seen |= {SHUFFLED: features_of([int(others[index]) for index in batch]), NONE: _only(own, [])}
        found = {
            system: decode_fused(model, features, decoding, tokenizer.bos, tokenizer.ends)
            for system, features in seen.items()
        }
        return [
            {
                "key": rows[chosen[index]].key,
                "references": captions_of(dataset[chosen[index]]),
                **{system: tokenizer.decode(texts[place]) for system, texts in found.items()},
            }
            for place, index in enumerate(batch)
        ]

    items = scoring.in_batches(len(chosen), config.batch_size, score, "samples")
    if not scoring.workers.first:
        return len(chosen)
    systems = [ALL, *alone, SHUFFLED, NONE]
    metrics = {
        "samples": len(items),
        "split": config.split,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "modalities": list(task.towers),
        "systems": {system: scores(items, system, config.bootstrap, scoring.seed) for system in systems},
    }
    for item in items:
        item["marks"] = {system: {EXACT: _is_exact(item, system)} for system in systems}
    scoring.write(metrics, labels(metrics, config), items, media(dataset, chosen[:GALLERY_SIZE]))
    return len(items)


def scores(items: list[Item], system: str, resamples: int, seed: int) -> dict[str, Any]:
    """Error rates of words and characters and the share of exact texts against the first reference, and CIDEr-D against all, with 95 % intervals."""
    settings: dict[str, Any] = {"resamples": resamples, "seed": seed}
    found: dict[str, Any] = {}
    for name, count in (("wer", word_errors), ("cer", character_errors)):
        errors = [count(item["references"][0], item[system]) for item in items]
        found[name] = ratio_interval([one.edits for one in errors], [one.length for one in errors], **settings)
    found[EXACT] = mean_interval([float(_is_exact(item, system)) for item in items], **settings)
    references = {item["key"]: item["references"] for item in items}
    cider = caption_metrics.score(references, {item["key"]: item[system] for item in items}).image_cider
    return {**found, "cider": mean_interval(cider, **settings)}


def _is_exact(item: Item, system: str) -> bool:
    return word_errors(item["references"][0], item[system]).edits == 0


def _has_all(row: FeatureRow) -> bool:
    return all(bool(modality.get(PRESENT, True)) for modality in row.features.values())


def _only(features: Mapping[str, Mapping[str, Tensor]], names: list[str]) -> dict[str, dict[str, Tensor]]:
    """The features with all modalities but `names` hidden."""
    return {name: {**modality, PRESENT: modality[PRESENT] & (name in names)} for name, modality in features.items()}
