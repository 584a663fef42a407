"""Language modelling: the next token of a text, given the tokens before.

A row holds packed texts. Labels are the inputs shifted by one, and EOS is learned like any token. Loss sums and their weights are kept apart, so that a token
counts the same in whichever micro-batch it is.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from glassworks.config.model import TextDecoder as ModelConfig
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.packing import PackedTexts, Packing, Row
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import tokenize
from glassworks.models.language_model import LanguageModel

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows with T inputs each."""

    keys: list[str]
    inputs: Tensor
    """[B, T] token ids."""
    targets: Tensor
    """[B, T] the next token of each, -100 at padding."""
    documents: Tensor | None
    """[B, T] the number of the text in its row, -1 at padding; None when rows are cut from one stream."""


class LanguageModellingTask:
    """What training and evaluation need to know about language modelling."""

    metrics = ("loss", "accuracy")
    """Per target token."""

    def __init__(self, model: ModelConfig, tokenizer: TextTokenizer, packing: Packing = "documents") -> None:
        self.model, self.tokenizer, self.packing = model, tokenizer, packing

    def build(self) -> LanguageModel:
        """The network with fresh weights, drawn from torch's generator."""
        return LanguageModel(self.model, self.tokenizer.size)

    def arrange(self, dataset: ShardDataset, folder: Path | None = None) -> PackedTexts:
        """The texts of a split as packed rows; their tokens are kept in `folder`."""
        return PackedTexts(dataset, tokenize(dataset, self.tokenizer, folder), self.model.max_tokens, self.packing)

    def example(self, row: Row, seed: int) -> Row:
        """A row as it is: nothing is drawn."""
        return row

    def collate(self, rows: list[Row]) -> Batch:
        """Pad every row to max_tokens: one shape, whatever texts have met."""
        shape = (len(rows), self.model.max_tokens)
        inputs, targets = torch.full(shape, self.tokenizer.pad), torch.full(shape, IGNORED)
        documents = torch.full(shape, -1) if self.packing == "documents" else None
        for index, row in enumerate(rows):
            inputs[index, : len(row.inputs)] = torch.from_numpy(row.inputs)
            targets[index, : len(row.inputs)] = torch.from_numpy(row.targets)
            if documents is not None:
                documents[index, : len(row.inputs)] = torch.from_numpy(row.documents)
        return Batch([row.key for row in rows], inputs, targets, documents)

    def loss(self, model: LanguageModel, batch: Batch) -> tuple[Tensor, int]:
        """The *sum* of the losses of all target tokens, and their number."""
        logits = model(batch.inputs, batch.documents)  # [B, T, V]
        losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return losses, int((batch.targets != IGNORED).sum())

    def validate(self, model: LanguageModel, batch: Batch) -> dict[str, tuple[float, int]]:
        """Loss and accuracy of the next token, summed over target tokens."""
        logits = model(batch.inputs, batch.documents).float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
        count = int((batch.targets != IGNORED).sum())
        right = int((logits.argmax(-1) == batch.targets).sum())
        return {"loss": (losses.item(), count), "accuracy": (right, count)}
