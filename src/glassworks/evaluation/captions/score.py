"""The evaluation `captions`: scores of captions and controls on a held-out split, perplexity, and a gallery."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from glassworks.data.reading.captions import captions_of
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.data.reading.images import normalise
from glassworks.data.reading.pixels import image_member
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.splits import share
from glassworks.evaluation.bootstrap import ratio_interval
from glassworks.evaluation.captions.labels import labels
from glassworks.evaluation.captions.metrics import java_is_there
from glassworks.evaluation.captions.settings import CaptionsEvaluation
from glassworks.evaluation.captions.summary import caption_rows, most_frequent_caption, summarise
from glassworks.evaluation.scoring import Item, Scoring
from glassworks.generation.decoding import caption
from glassworks.generation.settings import Decoding
from glassworks.models.captioner import Captioner

GALLERY_SIZE = 60
"""Images kept for the report's gallery."""


class CaptionExample(Protocol):
    """An image with its captions."""

    @property
    def key(self) -> str: ...
    @property
    def image(self) -> Tensor: ...
    @property
    def captions(self) -> list[str]: ...
    @property
    def labels(self) -> dict[str, Any]: ...


class CaptionTask(Protocol):
    """A task whose models this evaluation can score."""

    tokenizer: TextTokenizer

    def example(self, sample: Sample, part: Any, seed: int) -> CaptionExample:
        """Decode a sample, with the options of its data set."""

    def reference_loss(self, model: Captioner, example: Any, device: torch.device) -> tuple[float, int]:
        """Sum of the token losses over all references of one image, and the number of tokens."""


def run(scoring: Scoring, config: CaptionsEvaluation, task: CaptionTask, model: Captioner) -> int:
    """Caption the split greedily and by beam search, and score both and three controls; returns the number of samples.

    The controls are a blank image, another sample's image, and one caption for all images.
    """
    dataset, count = scoring.scored(config)
    tokenizer, device = task.tokenizer, scoring.workers.device
    decodings = {
        "greedy": Decoding(),
        "beam": Decoding(beams=config.beams, length_penalty=config.length_penalty),
    }

    limit = min(model.config.caption_tokens, model.decoder.max_tokens)

    def score(batch: range) -> Iterator[Item]:
        examples = [task.example(dataset[index], scoring.part, 0) for index in batch]
        images = normalise(torch.stack([example.image for example in examples]).to(device))
        found = {
            name: caption(model, images, decoding, tokenizer.bos, tokenizer.ends)
            for name, decoding in decodings.items()
        }
        for row, example in enumerate(examples):
            loss, weight = task.reference_loss(model, example, device)
            yield {
                "key": example.key,
                "references": example.captions,
                "labels": example.labels,
                "captions": {name: tokenizer.decode(ids[row]) for name, ids in found.items()},
                "loss": loss,
                "weight": weight,
                "cut": sum(len(ids) > limit for ids in tokenizer.encode_all(example.captions)),
            }

    rows = scoring.in_batches(count, config.batch_size, lambda batch: list(score(batch)), "images")
    if not scoring.workers.first:
        return count
    references = {row["key"]: row["references"] for row in rows}
    facts = {row["key"]: row["labels"] for row in rows}
    captions = {name: {row["key"]: row["captions"][name] for row in rows} for name in decodings}
    keys = list(references)
    blank = torch.zeros(1, 3, model.config.vision.image_size, model.config.vision.image_size, device=device)
    blank_caption = tokenizer.decode(caption(model, blank, Decoding(), tokenizer.bos, tokenizer.ends)[0])
    training = scoring.training()
    frequent = most_frequent_caption(text for index in range(len(training)) for text in captions_of(training[index]))
    captions["blank"] = dict.fromkeys(keys, blank_caption)
    captions["shuffled"] = {key: captions["greedy"][other] for key, other in _others(keys, scoring.seed).items()}
    captions["most_frequent"] = dict.fromkeys(keys, frequent)
    scoring.fingerprint["meteor"] = meteor = config.meteor and java_is_there()
    if config.meteor and not meteor:
        print("METEOR is left out: it is a Java program, and there is no java on the PATH", file=sys.stderr)
    metrics = summarise(references, facts, captions, meteor=meteor, resamples=config.bootstrap, seed=scoring.seed)
    metrics["perplexity"] = ratio_interval(
        [row["loss"] for row in rows],
        [row["weight"] for row in rows],
        resamples=config.bootstrap,
        seed=scoring.seed,
        exponential=True,
    )
    metrics["references"] = sum(len(row["references"]) for row in rows)
    metrics["cut_references"] = sum(row["cut"] for row in rows)
    metrics["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    metrics["split"] = config.split
    scoring.write(
        metrics,
        labels(metrics, config),
        caption_rows(references, facts, captions),
        _images(dataset, range(min(count, GALLERY_SIZE))),
    )
    return count


def _others(keys: Sequence[str], seed: int) -> dict[str, str]:
    """A derangement of the samples: each maps to its neighbour in a hash order."""
    order = sorted(keys, key=lambda key: share(seed, "shuffled images", key))
    return {key: order[index - 1] for index, key in enumerate(order)}


def _images(dataset: ShardDataset, indices: range) -> Iterator[tuple[str, bytes]]:
    """File name and content of each image."""
    for sample in (dataset[index] for index in indices):
        extension = image_member(sample.members, sample.where)
        yield f"{sample.key.replace('/', '_')}.{extension.rpartition('.')[2]}", bytes(sample.members[extension])
