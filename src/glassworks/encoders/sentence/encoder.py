"""Sentence encoders, frozen."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from glassworks.data.reading.captions import captions_of
from glassworks.data.reading.dataset import Sample
from glassworks.encoders.sentence.settings import Sentence
from glassworks.models.sentence_encoder import SentenceEncoder

PADDING = -1


class SentenceFeatures:
    """The first text of a sample to one unit vector."""

    modality = "text"
    tokens = 1

    def __init__(self, network: SentenceEncoder, max_tokens: int) -> None:
        self.network, self.max_tokens = network.eval().requires_grad_(False), min(max_tokens, network.max_tokens)
        self.width = network.width

    def read(self, sample: Sample) -> dict[str, Tensor]:
        """Token ids [max_tokens], -1 at padding."""
        text = captions_of(sample)[0]
        found = self.network.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
        ids = torch.full((self.max_tokens,), PADDING)
        ids[: len(found)] = torch.tensor(found)
        return {"ids": ids}

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Ids [B, T] to features [B, 1, C]; no token is masked."""
        mask = batch["ids"] != PADDING
        values = self.network(batch["ids"].clamp(min=0), mask.long())[:, None]
        return values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)

    def to(self, device: torch.device) -> "SentenceFeatures":
        """Move the network to a device."""
        self.network.to(device)
        return self


def load(settings: Sentence, directory: Path) -> SentenceFeatures:
    """The encoder with the weights and the tokenizer in a directory in transformers' layout."""
    return SentenceFeatures(SentenceEncoder.load(directory), settings.max_tokens)
