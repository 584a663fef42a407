"""Trained rows of the embedding and the output layer for new tokens of a frozen model, in peft's layout (`trainable_token_indices`).

The new tokens have consecutive ids. They take unused rows of the base, or follow its last row. Tied layers stay tied: the output layer reads the same
rows. An untied output layer has rows of its own. The other rows of the base keep their bits.
Shapes: V tokens of the base, N new tokens, C width.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.errors import ArtifactError
from glassworks.models.quantisation import one_thread

INDICES, ROWS = "trainable_token_indices", "token_adapter.trainable_tokens_delta"
"""peft's key in the configuration, and its name of the rows of a module. They replace those of the base, in spite of the name."""


class NewTokens(nn.Module):
    """A frozen `nn.Embedding` or output layer `nn.Linear`, in which the trained float32 `rows` [N, C] stand at the ids `first` … `first + N - 1`."""

    def __init__(self, base_layer: nn.Embedding | nn.Linear, first: int, count: int) -> None:
        """The rows begin as the mean of the first `first` rows of the base (Hewitt, 2021), so no new token is likely or unlikely at first."""
        super().__init__()
        self.base_layer, self.first = base_layer, first
        weight = base_layer.weight.detach()
        with one_thread():
            mean = weight[:first].double().mean(0).float()
        self.rows = nn.Embedding(count, weight.shape[1], _weight=mean.repeat(count, 1))

    @property
    def end(self) -> int:
        """The id after the last new token."""
        return self.first + self.rows.num_embeddings

    @property
    def weight(self) -> Tensor:
        """[max(V, end), C] in the dtype of the base."""
        base = self.base_layer.weight
        return torch.cat([base[: self.first], self.rows.weight.to(base.dtype), base[self.end :]])

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.base_layer, nn.Linear):
            return F.linear(x, self.weight)
        new = (x >= self.first) & (x < self.end)
        embedded = self.base_layer(x.masked_fill(new, 0))
        rows = self.rows((x - self.first).clamp(0, self.rows.num_embeddings - 1))
        return torch.where(new[..., None], rows.to(embedded.dtype), embedded)


def modules(model: nn.Module) -> dict[str, NewTokens]:
    """The layers with new rows, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, NewTokens)}


def layers(model: Any) -> list[str]:
    """The layers that get new rows: the embedding, and the output layer if it is not tied."""
    return ["decoder.tokens", *(["decoder.head"] if model.decoder.head is not None else [])]


def attach(model: Any, first: int, count: int) -> list[str]:
    """Give a frozen language model rows for `count` tokens from the id `first` on; returns the names of the rows.

    Raises `ArtifactError` if the ids leave a gap after the last row of the model.
    """
    if first > model.vocabulary:
        raise ArtifactError(f"new tokens begin with the id {first:,}, but the model has {model.vocabulary:,} tokens")
    for name in layers(model):
        model.set_submodule(name, NewTokens(model.get_submodule(name), first, count))
    model.vocabulary = model.decoder.vocabulary = max(model.vocabulary, first + count)
    return [f"{name}.rows.weight" for name in layers(model)]


@torch.no_grad()
def merge(model: nn.Module, rounding: Callable[[str, Tensor], Tensor] | None = None) -> None:
    """Replace the layers by plain ones with the same weight, in place. With `rounding`, a function of name and weight, the rows of the base are rounded."""
    for name, layer in modules(model).items():
        base = layer.base_layer
        if rounding is not None:
            base.weight.copy_(rounding(name, base.weight))
        if isinstance(base, nn.Embedding):
            plain: nn.Module = nn.Embedding.from_pretrained(layer.weight)
        else:
            plain = nn.utils.skip_init(nn.Linear, base.in_features, len(layer.weight), bias=False)
            plain.weight = nn.Parameter(layer.weight, requires_grad=False)
        model.set_submodule(name, plain.train(layer.training))


def tensors(model: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The rows of every layer under peft's name."""
    for name, layer in modules(model).items():
        yield f"{prefix}{name}.{ROWS}", layer.rows.weight.detach().clone()


def indices(model: nn.Module) -> dict[str, list[int]]:
    """peft's `trainable_token_indices`; empty without new tokens."""
    return {name.rpartition(".")[-1]: list(range(one.first, one.end)) for name, one in modules(model).items()}


def span(config: Mapping[str, Any], file: Path) -> tuple[int, int] | None:
    """The id of the first new token of an adapter, and their number; None without any. Raises `ArtifactError` for ids that do not follow each other."""
    given = config.get(INDICES)
    if not given:
        return None
    listed = [*given.values()] if isinstance(given, dict) else [given]
    first, count = (listed[0][0], len(listed[0])) if isinstance(listed[0], list) and listed[0] else (None, 0)
    if any(one != [*range(first or 0, (first or 0) + count)] for one in listed):
        raise ArtifactError(
            f"{file}: {INDICES} is not one range of ids for every layer, which our adapters need; merge this adapter by peft"
        )
    return int(first or 0), count
