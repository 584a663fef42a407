"""Sentence encoders, frozen."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from glassworks.data.reading.captions import captions_of
from glassworks.data.reading.dataset import Sample
from glassworks.encoders.protocol import check_layer
from glassworks.encoders.sentence.settings import Sentence
from glassworks.models.sentence_encoder import SentenceEncoder

PADDING = -1


class SentenceFeatures:
    """The first texts of a sample to one vector each."""

    modality = "text"

    def __init__(self, network: SentenceEncoder, max_tokens: int, texts: int, layer: int) -> None:
        self.network, self.max_tokens = network.eval().requires_grad_(False), min(max_tokens, network.max_tokens)
        self.width, self.tokens, self.layer = network.width, texts, layer

    def read(self, sample: Sample) -> dict[str, Tensor]:
        """Token ids [texts, max_tokens], -1 at padding and in missing texts."""
        ids = torch.full((self.tokens, self.max_tokens), PADDING)
        for row, text in zip(ids, captions_of(sample), strict=False):
            found = self.network.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
            row[: len(found)] = torch.tensor(found)
        return {"ids": ids}

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Ids [B, N, T] to features [B, N, C]; missing texts are masked."""
        mask = batch["ids"] != PADDING  # [B, N, T]
        # A missing text is encoded as one token, so that attention has something to read.
        seen = mask.flatten(0, 1).long().index_fill(1, torch.tensor([0], device=mask.device), 1)
        values = self.network(batch["ids"].clamp(min=0).flatten(0, 1), seen, self.layer)
        found = mask.any(2)
        return values.view(*found.shape, -1) * found[..., None], found

    def to(self, device: torch.device) -> "SentenceFeatures":
        """Move the network to a device."""
        self.network.to(device)
        return self


def load(settings: Sentence, directory: Path) -> SentenceFeatures:
    """The encoder with the weights and the tokenizer in a directory in transformers' layout."""
    network = SentenceEncoder.load(directory)
    check_layer(settings.layer, network.network.config.num_hidden_layers)
    return SentenceFeatures(network, settings.max_tokens, settings.texts, settings.layer)
