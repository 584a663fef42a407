"""The stage `evaluate` for captioners: captions of a held-out split beside controls, perplexity, and what the report shows of them."""

import json
import sys
from typing import Any

import torch

from glassworks.artifacts.digests import write_json, write_text
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.images import EXTENSIONS, normalise
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.splits import share
from glassworks.errors import DataError
from glassworks.evaluation.bootstrap import ratio_interval
from glassworks.evaluation.caption_metrics import java_is_there
from glassworks.evaluation.captioning import caption_rows, most_frequent_caption, summarise, write_plots
from glassworks.generation.decoding import caption
from glassworks.generation.settings import Decoding
from glassworks.models.captioner import Captioner
from glassworks.pipeline.execution import Context
from glassworks.progress import Progress
from glassworks.tasks.captioning import CaptioningTask, Example, captions_of

GALLERY = 60
"""Images kept for the report's gallery."""


def run(context: Context) -> dict[str, Any]:
    """Caption the split greedily and by beam search, and score both beside three controls: a blank image, another sample's image, one caption for all."""
    experiment = context.project.experiments[context.stage.subject]
    config, seed = experiment.evaluation, context.params["seed"]
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tokenizer = TextTokenizer(context.inputs["tokenizer"])
    model = Captioner.load(context.inputs["model"]).eval()
    task = CaptioningTask(model.config, tokenizer)
    dataset = ShardDataset(context.inputs["shards"], config.split, verify="first_touch")
    count = min(len(dataset), config.max_samples or len(dataset))
    if count < 2:
        raise DataError(
            f"{context.inputs['shards'].name}: the {config.split} split has {count} samples; scoring needs at least 2"
        )

    references: dict[str, list[str]] = {}
    labels: dict[str, dict[str, Any]] = {}
    beams = Decoding(beams=config.beams, length_penalty=config.length_penalty)
    decodings = {"greedy": Decoding(), "beam": beams}
    captions: dict[str, dict[str, str]] = {name: {} for name in decodings}
    sums: list[tuple[float, int]] = []
    with Progress(context.stage.name, count, "images") as progress:
        for start in range(0, count, config.batch_size):
            samples = [dataset[index] for index in range(start, min(start + config.batch_size, count))]
            examples = [task.example(sample, 0) for sample in samples]
            images = normalise(torch.stack([example.image for example in examples]))
            texts = {
                name: caption(model, images, decoding, tokenizer.bos, tokenizer.eos)
                for name, decoding in decodings.items()
            }
            for name, rows in texts.items():
                captions[name].update(
                    {example.key: tokenizer.decode(ids) for example, ids in zip(examples, rows, strict=True)}
                )
            for example in examples:
                references[example.key], labels[example.key] = example.captions, example.labels
                sums.append(reference_loss(model, task, example))
            if start < GALLERY:
                _keep_images(context, samples[: GALLERY - start])
            progress.advance(len(samples))

    keys = list(references)
    blank = torch.zeros(1, 3, model.config.vision.image_size, model.config.vision.image_size)
    blank_caption = tokenizer.decode(caption(model, blank, Decoding(), tokenizer.bos, tokenizer.eos)[0])
    training = ShardDataset(context.inputs["shards"], "train", verify="first_touch")
    frequent = most_frequent_caption(
        caption for index in range(len(training)) for caption in captions_of(training[index])
    )
    captions["blank"] = dict.fromkeys(keys, blank_caption)
    captions["shuffled"] = {key: captions["greedy"][other] for key, other in _others(keys, seed).items()}
    captions["most_frequent"] = dict.fromkeys(keys, frequent)
    context.fingerprint["meteor"] = meteor = config.meteor and java_is_there()
    if config.meteor and not meteor:
        print("METEOR is left out: it is a Java program, and there is no java on the PATH", file=sys.stderr)
    metrics = summarise(references, labels, captions, meteor=meteor, resamples=config.bootstrap, seed=seed)
    metrics["perplexity"] = ratio_interval(
        [total for total, _ in sums],
        [weight for _, weight in sums],
        resamples=config.bootstrap,
        seed=seed,
        exponential=True,
    )
    metrics["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    metrics["split"] = config.split
    write_json(context.output / "metrics.json", metrics)
    write_plots(context.output / "plots", metrics)
    rows = caption_rows(references, labels, captions)
    text = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
    write_text(context.output / "captions.jsonl", text)
    return {"samples": count}


@torch.inference_mode()
def reference_loss(model: Captioner, task: CaptioningTask, example: Example) -> tuple[float, int]:
    """Sum of the losses of the tokens of all references of one image, and their number; the image is encoded once."""
    ids = [task.tokenizer.encode(caption, task.model.caption_tokens) for caption in example.captions]
    batch = task.collate(
        [
            Example(example.key, example.image, [caption], {}, row)
            for caption, row in zip(example.captions, ids, strict=True)
        ]
    )
    losses, count = task.caption_losses(model, batch)
    return losses.sum().item(), count


def _others(keys: list[str], seed: int) -> dict[str, str]:
    """For every sample another one, each used once: neighbours in an order drawn by hash."""
    order = sorted(keys, key=lambda key: share(seed, "shuffled images", key))
    return {key: order[index - 1] for index, key in enumerate(order)}


def _keep_images(context: Context, samples: list[Any]) -> None:
    folder = context.output / "gallery"
    folder.mkdir(exist_ok=True)
    for sample in samples:
        extension = next(name for name in EXTENSIONS if name in sample.members)
        (folder / f"{sample.key.replace('/', '_')}.{extension}").write_bytes(bytes(sample.members[extension]))
