"""Greedy and beam decoding with a KV cache. A caption does not depend on the batch its image is in.

The model is anything with `remember(images)` and a `decoder` that has `new_cache(rows)`, `max_tokens` and is called as decoder(ids, memory, cache).
Shapes: B images, K beams, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor


@torch.inference_mode()
def greedy(model: Any, images: Tensor, bos: int, eos: int) -> list[list[int]]:
    """The most likely next token, again and again, until EOS; token ids without BOS and EOS for each of `images` [B, 3, I, I]."""
    memory = model.remember(images)
    rows = len(images)
    cache = model.decoder.new_cache(rows)
    ids = torch.full((rows, 1), bos)
    done = torch.zeros(rows, dtype=torch.bool)
    texts: list[list[int]] = [[] for _ in range(rows)]
    for _ in range(model.decoder.max_tokens - 1):
        following = model.decoder(ids, memory, cache)[:, -1].argmax(-1)  # [B]
        done |= following == eos
        if done.all():
            break
        for row in (~done).nonzero().flatten().tolist():
            texts[row].append(int(following[row]))
        ids = following[:, None]
    return texts


@torch.inference_mode()
def beam_search(model: Any, images: Tensor, bos: int, eos: int, beams: int, length_penalty: float) -> list[list[int]]:
    """The text whose log-probability divided by length ** `length_penalty` is highest among those a beam of `beams` finds; ids without BOS and EOS.

    Length counts EOS. A row stops when its best finished text beats what its live beams can still reach.
    """
    count = len(images)
    memory = [(k.repeat_interleave(beams, 0), v.repeat_interleave(beams, 0)) for k, v in model.remember(images)]
    cache = model.decoder.new_cache(count * beams)
    ids = torch.full((count * beams, 1), bos)
    scores = torch.full((count, beams), -torch.inf)
    scores[:, 0] = 0.0  # all beams start equal: only the first counts
    tokens = torch.empty((count, beams, 0), dtype=torch.long)
    best_score, best_text = torch.full((count,), -torch.inf), [[] for _ in range(count)]
    first_row = torch.arange(count)[:, None] * beams
    limit = model.decoder.max_tokens - 1
    for length in range(1, limit + 1):
        logits = model.decoder(ids, memory, cache)[:, -1].float()
        total = scores[:, :, None] + logits.log_softmax(-1).view(count, beams, -1)  # [B, K, V]
        ended = total[:, :, eos] / length**length_penalty  # [B, K]
        value, beam = ended.max(1)
        for row in (value > best_score).nonzero().flatten().tolist():
            best_score[row], best_text[row] = value[row], tokens[row, beam[row]].tolist()
        total[:, :, eos] = -torch.inf
        scores, flat = total.view(count, -1).topk(beams)  # [B, K]
        parent, following = flat // total.shape[-1], flat % total.shape[-1]
        tokens = torch.cat(
            [tokens.gather(1, parent[:, :, None].expand(-1, -1, tokens.shape[2])), following[:, :, None]], 2
        )
        reachable = scores[:, 0] / (limit if length_penalty > 0 else length) ** length_penalty
        if length == limit or (best_score >= reachable).all():
            break
        cache.reorder((first_row + parent).flatten())
        ids = following.reshape(-1, 1)
    unfinished = scores[:, 0] / limit**length_penalty
    for row in range(count):
        if not best_score[row].isfinite():
            best_text[row], best_score[row] = tokens[row, 0].tolist(), unfinished[row]
    return best_text
