"""The evaluation `language`: perplexity and bits per byte of a held-out split, baselines, and generated samples.

Bits per byte do not depend on the tokenizer, so models with different tokenizers and compressors can be compared. The length of a text is its bytes
plus one for its end (EOS for the model, a newline for the compressors).
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.packing import PackedRows, Row
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import text_of, tokenize
from glassworks.evaluation.bootstrap import ratio_interval
from glassworks.evaluation.language.baselines import bigram_bits, compressed_bits_per_byte
from glassworks.evaluation.language.labels import labels
from glassworks.evaluation.language.settings import LanguageEvaluation
from glassworks.evaluation.scoring import Item, Scoring
from glassworks.generation.decoding import generate
from glassworks.generation.settings import Decoding
from glassworks.generation.text import continuation
from glassworks.models.language_model import LanguageModel
from glassworks.models.losses import next_token_losses
from glassworks.training.objective import to_device


class TextTask(Protocol):
    """A task whose models this evaluation can score."""

    tokenizer: TextTokenizer

    def arrange(self, dataset: ShardDataset, folder: Path | None = None) -> PackedRows:
        """The texts of a split as packed rows."""

    def collate(self, rows: list[Row]) -> Any:
        """A batch with `inputs`, `targets` and `documents`."""


def run(scoring: Scoring, config: LanguageEvaluation, task: TextTask, model: LanguageModel) -> int:
    """Score the split, and continue every prompt at every temperature; returns the number of samples scored."""
    dataset, count = scoring.scored(config)
    tokenizer, seed = task.tokenizer, scoring.seed
    rows = task.arrange(dataset, scoring.work / "tokens")
    tokens = rows.tokens

    @torch.inference_mode()
    def score(batch: range) -> list[Item]:
        """For each row of packed texts: its texts, and the sum and the number of the losses of each text."""
        collated = to_device(task.collate([rows[index] for index in batch]), scoring.workers.device)
        logits = model(collated.inputs, collated.documents).float()
        losses = next_token_losses(logits, collated.targets)
        return [_by_text(rows.texts(index), row) for index, row in zip(batch, losses.cpu().numpy(), strict=True)]

    scored = scoring.in_batches(len(rows), config.batch_size, score, "rows")
    if not scoring.workers.first:
        return count
    losses, counts = np.zeros(len(tokens.ends)), np.zeros(len(tokens.ends))
    for row in scored:
        np.add.at(losses, row["texts"], row["losses"])
        np.add.at(counts, row["texts"], row["counts"])
    losses, counts = losses[:count], counts[:count]
    texts = [text_of(dataset, index).encode() + b"\n" for index in range(count)]
    training = tokenize(scoring.training(), tokenizer)
    last = int(tokens.ends[count - 1])
    bigram = bigram_bits(training, tokens._replace(ids=tokens.ids[:last], ends=tokens.ends[:count]), tokenizer.size)
    size = sum(map(len, texts))
    ratio = partial(ratio_interval, resamples=config.bootstrap, seed=seed)
    metrics = {
        "samples": count,
        "split": config.split,
        "tokens": int(counts.sum()),
        "bytes": size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "perplexity": ratio(losses, counts, exponential=True),
        "bits_per_byte": ratio(losses / math.log(2), [len(text) for text in texts]),
        "baselines": {
            name: round(value, 4)
            for name, value in {**compressed_bits_per_byte(b"".join(texts)), "token bigram": bigram / size}.items()
        },
    }
    scoring.write(metrics, labels(metrics), samples(model, tokenizer, config, seed))
    return count


def samples(model: LanguageModel, tokenizer: TextTokenizer, config: LanguageEvaluation, seed: int) -> Iterator[Item]:
    """One generated text for every temperature and prompt."""
    prompts = [tokenizer.begin(prompt) for prompt in config.prompts]
    for temperature in config.temperatures:
        decoding = Decoding(temperature=temperature, max_new_tokens=config.new_tokens, seed=seed)
        texts = generate(model, prompts, decoding, tokenizer.ends)
        for prompt, begun, ids in zip(config.prompts, prompts, texts, strict=True):
            yield {"prompt": prompt, "temperature": temperature, "text": continuation(tokenizer, begun, ids)}


def _by_text(texts: np.ndarray, losses: np.ndarray) -> Item:
    """The texts of a row, and the sum and the number of the losses of each text. `losses` may be padded."""
    names, inverse = np.unique(texts, return_inverse=True)
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    np.add.at(sums, inverse, losses[: len(texts)].astype(np.float64))
    np.add.at(counts, inverse, 1)
    return {"texts": names.tolist(), "losses": sums.tolist(), "counts": counts.tolist()}
