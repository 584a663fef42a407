"""From logits to the next token: repetition penalty and random draws. No function changes its arguments.

Shapes: B rows, V vocabulary.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from glassworks.generation.settings import Decoding

TINY = 1e-4
"""Below this temperature, the largest logit is subtracted first."""


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits [B, V] with the tokens marked by `seen` [B, V] penalised: positive logits are divided by the penalty, negative ones multiplied."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw(logits: Tensor, uniform: Tensor, settings: Decoding) -> Tensor:
    """One token for each row, [B], by inversion: the first whose cumulative probability exceeds `uniform` [B], in [0, 1), float64.

    Applies temperature, top-k, top-p and min-p, in this order, on the CPU: the cumulative sum has no deterministic CUDA kernel.
    """
    device, logits, uniform = logits.device, logits.float().cpu(), uniform.cpu()
    if settings.temperature < TINY:  # the quotient would overflow
        logits = logits.double() - logits.amax(-1, keepdim=True)
    logits = logits / settings.temperature
    ids = None
    if settings.top_k is not None or settings.top_p < 1:
        logits, ids = logits.topk(min(settings.top_k or logits.shape[-1], logits.shape[-1]))  # likeliest first
    probabilities = logits.softmax(-1)
    if settings.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= settings.top_p, 0)
    if settings.min_p:
        least = settings.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0)
    cumulative = probabilities.double().cumsum(-1)
    chosen = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    chosen = chosen.clamp(max=logits.shape[-1] - 1)
    return (chosen if ids is None else ids.gather(1, chosen))[:, 0].to(device)


def uniforms(seed: int, streams: Sequence[str], count: int) -> Tensor:
    """Numbers in [0, 1) for the draws of every row, float64 [B, count]. A row's numbers depend on the seed and its own stream alone."""
    generators = [torch.Generator().manual_seed(_stream_seed(seed, stream)) for stream in streams]
    return torch.stack([torch.rand(count, generator=generator, dtype=torch.float64) for generator in generators])


def _stream_seed(seed: int, stream: str) -> int:
    digest = hashlib.sha256(f"{seed} {stream}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
