"""The stage `evaluate` for language models: perplexity and bits per byte of a held-out split beside baselines, and samples.

Bits per byte do not depend on the tokenizer, so models with different ones, and compressors, can be compared. A text counts its bytes and one more, which
ends it (the model's EOS, a newline for the compressors).
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from glassworks.artifacts.digests import write_json, write_text
from glassworks.config.evaluation import LanguageModelEvaluation
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.packing import PackedTexts
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import text_of, tokenize
from glassworks.errors import DataError
from glassworks.evaluation.bootstrap import ratio_interval
from glassworks.evaluation.text_baselines import bigram_bits, compressed_bits_per_byte
from glassworks.generation.decoding import generate
from glassworks.generation.settings import Decoding
from glassworks.models.language_model import LanguageModel
from glassworks.pipeline.execution import Context
from glassworks.progress import Progress
from glassworks.tasks.language_modelling import IGNORED, LanguageModellingTask


def run(context: Context) -> dict[str, Any]:
    """Score the split, and write a text for every prompt and temperature."""
    experiment = context.experiment
    config, seed = experiment.evaluation, context.params["seed"]
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tokenizer = TextTokenizer(context.inputs["tokenizer"])
    model = LanguageModel.load(context.inputs["model"]).eval()
    task = LanguageModellingTask(model.config, tokenizer, experiment.data.packing)
    dataset = ShardDataset(context.inputs["shards"], config.split, verify="first_touch")
    tokens = tokenize(dataset, tokenizer)
    rows = PackedTexts(dataset, tokens, model.config.max_tokens, experiment.data.packing)
    losses, counts = score(model, task, rows, config.batch_size, context.stage.name)
    scored = range(min(len(dataset), config.max_samples or len(dataset)))
    if len(scored) < 2:
        raise DataError(
            f"{context.inputs['shards'].name}: the {config.split} split has {len(dataset)} texts; scoring needs at least 2"
        )
    texts = [text_of(dataset, index).encode() + b"\n" for index in scored]
    losses, counts = losses[: len(scored)], counts[: len(scored)]
    options = {"resamples": config.bootstrap, "seed": seed}
    training = tokenize(ShardDataset(context.inputs["shards"], "train", verify="first_touch"), tokenizer)
    last = int(tokens.ends[len(scored) - 1])
    bigram = bigram_bits(
        training, tokens._replace(ids=tokens.ids[:last], ends=tokens.ends[: len(scored)]), tokenizer.size
    )
    size = sum(map(len, texts))
    metrics = {
        "samples": len(scored),
        "split": config.split,
        "tokens": int(counts.sum()),
        "bytes": size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "perplexity": ratio_interval(losses, counts, exponential=True, **options),
        "bits_per_byte": ratio_interval(losses / math.log(2), [len(text) for text in texts], **options),
        "baselines": {
            name: round(value, 4)
            for name, value in {**compressed_bits_per_byte(b"".join(texts)), "token bigram": bigram / size}.items()
        },
    }
    write_json(context.output / "metrics.json", metrics)
    lines = [
        json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in samples(model, tokenizer, config, seed)
    ]
    write_text(context.output / "samples.jsonl", "".join(lines))
    return {"samples": len(scored)}


def samples(
    model: LanguageModel, tokenizer: TextTokenizer, config: LanguageModelEvaluation, seed: int
) -> Iterator[dict[str, Any]]:
    """A text for every temperature and prompt."""
    prompts = [tokenizer.encode(prompt, model.config.max_tokens)[:-1] for prompt in config.prompts]
    for temperature in config.temperatures:
        decoding = Decoding(temperature=temperature, max_new_tokens=config.new_tokens, seed=seed)
        for prompt, ids in zip(config.prompts, generate(model, prompts, decoding, tokenizer.eos), strict=True):
            yield {"prompt": prompt, "temperature": temperature, "text": tokenizer.decode(ids)}


@torch.inference_mode()
def score(
    model: LanguageModel, task: LanguageModellingTask, rows: PackedTexts, batch_size: int, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """For each text the sum of the losses of its tokens in nats [texts], and their number [texts]."""
    losses, counts = np.zeros(len(rows.tokens.ends)), np.zeros(len(rows.tokens.ends))
    with Progress(label, len(rows), "rows") as progress:
        for start in range(0, len(rows), batch_size):
            chosen = range(start, min(start + batch_size, len(rows)))
            batch = task.collate([rows[index] for index in chosen])
            logits = model(batch.inputs, batch.documents).float()
            found = F.cross_entropy(
                logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="none"
            )
            for index, row in zip(chosen, found.view_as(batch.targets).numpy(), strict=True):
                texts = rows.texts(index)
                np.add.at(losses, texts, row[: len(texts)].astype(np.float64))
                np.add.at(counts, texts, 1)
            progress.advance(len(chosen))
    return losses, counts
