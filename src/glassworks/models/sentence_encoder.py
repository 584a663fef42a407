"""Sentence vectors from a published encoder, such as all-MiniLM-L6-v2: the mean of the token features, scaled to length 1.

Reads a local directory and never downloads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.artifacts.finite import check_finite
from glassworks.artifacts.model_files import read_hub_config
from glassworks.errors import ArtifactError


class SentenceEncoder(nn.Module):
    """Token ids [B, T] and their mask [B, T] to unit vectors [B, C], by mean pooling over the unmasked tokens."""

    def __init__(self, network: Any, tokenizer: Any, max_tokens: int) -> None:
        super().__init__()
        self.network, self.tokenizer, self.max_tokens = network, tokenizer, max_tokens
        self.width: int = network.config.hidden_size

    @classmethod
    def load(cls, directory: Path) -> "SentenceEncoder":
        """The encoder in a directory in transformers' layout. Raises `ArtifactError` for an unreadable model or tokenizer."""
        from transformers import AutoModel, AutoTokenizer

        config = read_hub_config(directory)
        try:
            network = AutoModel.from_pretrained(
                directory, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(
                f"{directory}: transformers cannot read it as an encoder ({str(error).splitlines()[0]})"
            ) from None
        if hasattr(network, "pooler"):
            network.pooler = None  # unused: sentence vectors come from the tokens
        check_finite(network.state_dict(), directory)
        limits = directory / "sentence_bert_config.json"
        limit = read_hub_config(directory, limits.name).get("max_seq_length") if limits.is_file() else None
        return cls(network, tokenizer, limit or config.get("max_position_embeddings", 512)).eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens = self.network(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, T, C]
        weights = mask[..., None].to(tokens.dtype)
        return F.normalize((tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=-1)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str], batch_size: int = 64) -> Tensor:
        """Unit vectors [N, C] of sentences truncated to `max_tokens`. The similarity of two sentences is their dot product."""
        vectors = [torch.empty(0, self.width, device=next(self.parameters()).device)]
        for start in range(0, len(sentences), batch_size):
            batch = self.tokenizer(
                list(sentences[start : start + batch_size]),
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            device = next(self.parameters()).device
            vectors.append(self(batch["input_ids"].to(device), batch["attention_mask"].to(device)))
        return torch.cat(vectors)
