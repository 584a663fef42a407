"""Decoding with a KV cache: greedy, sampling or beam search. A text does not depend on its batch.

A decoder needs the interface of `TextDecoder`: `new_cache`, `max_tokens`, `hidden` and `logits`. Prompts of different lengths are padded on the left.
Shapes: B rows, K beams, T tokens, V vocabulary.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from glassworks.config.packing import IMAGE_PATCH, SPECIAL
from glassworks.errors import DataError
from glassworks.generation.cpu_step import CpuStep, supports
from glassworks.generation.sampling import draw, penalise, uniforms
from glassworks.generation.settings import Decoding

Prompts = Sequence[Sequence[int]]
"""Token ids of every prompt, with at least one token (BOS)."""
Ends = int | Collection[int] | None
"""The ids that end a text."""
Inputs = Callable[[Tensor], dict[str, Any]]
"""From padded ids [B, T] to further arguments of `TextDecoder.hidden`, such as the input vectors of images."""


def generate(
    model: Any,
    prompts: Prompts,
    settings: Decoding,
    ends: Ends,
    numbers: Sequence[int] | None = None,
    shared: int = 0,
) -> list[list[int]]:
    """The new token ids of every prompt from a language model, without its end.

    Random draws depend on the seed, the prompt and its number in `numbers` (default 0). Different numbers give different texts of the same prompt.
    The first `shared` tokens are the same in all prompts, and are computed once.
    """
    return collect(stream(model, prompts, settings, ends, numbers, shared), len(prompts))


def stream(
    model: Any,
    prompts: Prompts,
    settings: Decoding,
    ends: Ends,
    numbers: Sequence[int] | None = None,
    shared: int = 0,
) -> Iterator[list[tuple[int, int]]]:
    """The stream of `generate`: at every step, (row, new id) of each unfinished text. Beam search yields everything at its end."""
    numbers = numbers or [0] * len(prompts)
    streams = [f"{number}: {' '.join(map(str, prompt))}" for number, prompt in zip(numbers, prompts, strict=True)]
    yield from decode(model.decoder, prompts, settings, ends, streams, shared=shared)


def caption(
    model: Any, images: Tensor, settings: Decoding, bos: int, ends: Ends, keys: Sequence[str] | None = None
) -> list[list[int]]:
    """Captions of `images` [B, 3, I, I]; ids without BOS and end. Random draws for an image depend on the seed and its key (by default, its pixels)."""
    if not len(images):
        return []
    with torch.inference_mode():
        memory = model.encode_memory(images)
    if keys is None:
        keys = [image.cpu().numpy().tobytes().hex() for image in images] if settings.temperature else [""] * len(images)
    context = min(model.config.caption_tokens, model.decoder.max_tokens)
    return collect(decode(model.decoder, [[bos]] * len(images), settings, ends, keys, memory, context), len(images))


def answer(
    model: Any,
    prompts: Prompts,
    features: Tensor | None,
    settings: Decoding,
    ends: Ends,
    keys: Sequence[str] | None = None,
    frames: Tensor | None = None,
    tiles: Tensor | None = None,
    tile_windows: Tensor | None = None,
) -> list[list[int]]:
    """The answers to prompts of a vision-language model, without their end. `features` [N, P, C] are those of all images, prompt after prompt.

    `frames` [N, P, C] are those of the frames of all clips, None without any. `tiles` [N, P, C] are those of the crops of all images, with the windows of
    their tokens (`VisionLanguageModel.inputs`). Random draws depend on the seed, and on the key of the prompt in `keys` (by default, its tokens).
    """
    pictures = (frames, tiles, tile_windows)
    return collect(stream_answers(model, prompts, features, settings, ends, keys, *pictures), len(prompts))


def stream_answers(
    model: Any,
    prompts: Prompts,
    features: Tensor | None,
    settings: Decoding,
    ends: Ends,
    keys: Sequence[str] | None = None,
    frames: Tensor | None = None,
    tiles: Tensor | None = None,
    tile_windows: Tensor | None = None,
) -> Iterator[list[tuple[int, int]]]:
    """The stream of `answer`: at every step, (row, new id) of each unfinished text."""
    keys = keys or [" ".join(map(str, prompt)) for prompt in prompts]
    seen = {"features": features, "frames": frames, "tiles": tiles, "tile_windows": tile_windows}
    inputs = partial(model.inputs, **seen, ends=_ends(ends, len(model.decoder.tokens.weight)))
    yield from decode(model.decoder, prompts, settings, ends, keys, inputs=inputs)


def decode_fused(
    model: Any, features: Mapping[str, Mapping[str, Tensor]], settings: Decoding, bos: int, ends: Ends
) -> list[list[int]]:
    """The texts of samples by a fused decoder, ids without BOS and end. `features` are those of each modality (`models.fusion`), tensors [B, …].

    Random draws depend on the seed and the row.
    """
    with torch.inference_mode():
        tokens = model.fusion(features)
        memory = model.memory(tokens)
    rows = len(tokens.mask)
    counts = [0] * rows if memory else tokens.mask.sum(1).tolist()
    prompts = [[IMAGE_PATCH] * count + [bos] for count in counts]
    inputs = None if memory else partial(model.inputs, tokens=tokens)
    streams = [str(row) for row in range(rows)]
    return collect(decode(model.decoder, prompts, settings, ends, streams, memory, inputs=inputs), rows)


def collect(steps: Iterator[list[tuple[int, int]]], rows: int) -> list[list[int]]:
    """The complete texts of a stream."""
    texts: list[list[int]] = [[] for _ in range(rows)]
    for step in steps:
        for row, token in step:
            texts[row].append(token)
    return texts


@torch.inference_mode()
def decode(
    decoder: Any,
    prompts: Prompts,
    settings: Decoding,
    ends: Ends,
    streams: Sequence[str],
    memory: Any = None,
    context: int | None = None,
    shared: int = 0,
    inputs: Inputs | None = None,
) -> Iterator[list[tuple[int, int]]]:
    """The stream of new tokens: at every step, (row, new id) of each unfinished text. An id of `ends` ends a text and is not yielded.

    `context` limits prompt plus text, by default to the maximum of the decoder. `streams` names the random stream of each row. The first `shared` tokens
    are the same in all prompts, and are computed once; every prompt has a token after them. `inputs` computes the input vectors of the prompts, which
    then may hold special tokens with negative ids and share nothing.
    """
    assert not decoder.training, "decoding wants model.eval()"
    if not prompts:
        return
    vocabulary = len(decoder.tokens.weight)
    ends = _ends(ends, vocabulary)
    _check_ids(prompts, vocabulary, -len(SPECIAL) if inputs else 0)
    room = _room(prompts, settings, context or decoder.max_tokens)
    if shared and (memory is not None or inputs is not None or any(view.window for view in decoder.views)):
        shared = 0
    if settings.beams > 1:
        texts = _beam_search(decoder, prompts, room, settings, ends, memory, inputs)
        yield [(row, token) for row, text in enumerate(texts) for token in text]
        return
    steps = max(room)
    cache, logits = _prefill(decoder, prompts, memory, steps, shared, inputs)
    advance = next_logits(decoder, len(prompts), steps)
    device = logits.device
    seen = _seen(prompts, logits) if settings.repetition_penalty != 1 else None
    random = uniforms(settings.seed, streams, steps) if settings.temperature else None
    rows = list(range(len(prompts)))  # batch indices of the unfinished texts
    ended = [False] * len(rows)
    for step in range(steps):
        if seen is not None:
            logits = penalise(logits, seen, settings.repetition_penalty)
        if step < settings.min_new_tokens:
            logits = _without(logits, ends)
        ids = logits.argmax(-1) if random is None else draw(logits, random[:, step], settings)  # [B]
        found = ids.tolist()
        _check_finite(logits)
        ended = [end or token in ends for end, token in zip(ended, found, strict=True)]
        yield [(row, token) for row, token, end in zip(rows, found, ended, strict=True) if not end]
        ended = [end or step + 1 == room[row] for row, end in zip(rows, ended, strict=True)]
        if all(ended):
            return
        if sum(ended) * 2 >= len(rows):  # dropping rows saves work but copies the cache
            keep = [index for index, end in enumerate(ended) if not end]
            kept = torch.tensor(keep, device=device)
            cache.reorder(kept)
            memory = memory and _reordered(memory, kept)
            ids, rows, ended = ids[kept], [rows[index] for index in keep], [False] * len(keep)
            seen = None if seen is None else seen[kept]
            random = None if random is None else random[keep]
        if seen is not None:
            seen = seen.scatter(1, ids[:, None], True)
        logits = advance(ids, memory, cache)


def next_logits(decoder: Any, rows: int, tokens: int) -> Callable[[Tensor, Any, Any], Tensor]:
    """A function from ids [B], memory and cache to the logits [B, V] of the next tokens; it adds the ids to the cache.

    `rows` texts get up to `tokens` new tokens each. A plain decoder on a CPU uses `CpuStep`, any other decoder its own forward pass.
    """
    if supports(decoder):
        return CpuStep(decoder, rows, tokens)
    return lambda ids, memory, cache: decoder.logits(decoder.hidden(ids[:, None], memory, cache)[:, 0])


def _beam_search(
    decoder: Any,
    prompts: Prompts,
    room: list[int],
    settings: Decoding,
    ends: list[int],
    memory: Any,
    inputs: Inputs | None = None,
) -> list[list[int]]:
    """The best text of every row by beam search, scored by log-probability / length ** length_penalty.

    The length includes the end. A text may end only where its end is among the `beams` likeliest continuations of its row. A row stops when no live beam can still beat its best finished text. No text exceeds the token limit of its row.
    """
    count, beams, penalty = len(prompts), settings.beams, settings.length_penalty
    cache, logits = _prefill(decoder, prompts, memory, max(room), inputs=inputs)
    device = logits.device
    first_row = torch.arange(count, device=device)[:, None]
    each = first_row.expand(-1, beams).flatten()
    cache.reorder(each)
    memory, logits = memory and _reordered(memory, each), logits[each]
    advance = next_logits(decoder, count * beams, max(room))
    seen = _seen(prompts, logits)[each] if settings.repetition_penalty != 1 else None
    scores = torch.full((count, beams), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all beams start equal: score only the first
    tokens = torch.empty((count, beams, 0), dtype=torch.long, device=device)
    best: list[tuple[float, list[int]]] = [(-torch.inf, [])] * count
    done = [False] * count
    for length in range(1, max(room) + 1):
        if seen is not None:
            logits = penalise(logits, seen, settings.repetition_penalty)
        _check_finite(logits)
        total = scores[:, :, None] + logits.float().log_softmax(-1).view(count, beams, -1)  # [B, K, V]
        if length > settings.min_new_tokens:
            for row, rank, index in _ended(total, beams, ends):
                score = rank / length**penalty
                if not done[row] and score > best[row][0]:
                    best[row] = score, tokens[row, index].tolist()
        total = _without(total, ends)
        scores, flat = total.view(count, -1).topk(beams)  # [B, K]
        parent, ids = flat // total.shape[-1], flat % total.shape[-1]
        tokens = torch.cat([tokens.gather(1, parent[:, :, None].expand(-1, -1, length - 1)), ids[:, :, None]], 2)
        for row, score in enumerate(scores[:, 0].tolist()):
            if done[row]:
                continue
            done[row] = length == room[row] or best[row][0] >= score / (room[row] if penalty > 0 else length) ** penalty
            if done[row] and best[row][0] == -torch.inf:  # no beam has ended: take the likeliest unfinished text
                best[row] = score, tokens[row, 0].tolist()
        if all(done):
            break
        chosen = (first_row * beams + parent).flatten()
        cache.reorder(chosen)
        if seen is not None:
            seen = seen[chosen].scatter(1, ids.view(-1, 1), True)
        logits = advance(ids.flatten(), memory, cache)
    return [text for _, text in best]


def _ended(total: Tensor, beams: int, ends: list[int]) -> list[tuple[int, float, int]]:
    """(row, log-probability, beam) of every end among the `beams` likeliest continuations of a row; `total` is [B, K, V]."""
    if not ends:
        return []
    scores, flat = total.flatten(1).topk(beams)  # [B, K]
    found = torch.isin(flat % total.shape[-1], torch.tensor(ends, device=flat.device)).nonzero().tolist()
    parent = flat // total.shape[-1]
    return [(row, float(scores[row, rank]), int(parent[row, rank])) for row, rank in found]


def _ends(ends: Ends, vocabulary: int) -> list[int]:
    """The ends that a model with this vocabulary can produce."""
    found = [] if ends is None else [ends] if isinstance(ends, int) else ends
    return sorted({token for token in found if token < vocabulary})


def _check_ids(prompts: Prompts, vocabulary: int, lowest: int) -> None:
    for number, prompt in enumerate(prompts, 1):
        beyond = [token for token in prompt if not lowest <= token < vocabulary]
        if beyond:
            raise DataError(
                f"prompt {number}: token {beyond[0]} is beyond the vocabulary of the model, which has {vocabulary:,} entries; "
                "leave that token out"
            )


def _check_finite(logits: Tensor) -> None:
    """Raise `DataError` if the likeliest token of a row has no finite logit: NaN is the maximum of its row."""
    if not logits.amax(-1).isfinite().all():
        raise DataError(
            "the model gives NaN or infinite logits; its weights overflow in this precision: use float32, or train it again"
        )


def _room(prompts: Prompts, settings: Decoding, context: int) -> list[int]:
    """The token limit of each text."""
    for number, prompt in enumerate(prompts, 1):
        if not prompt:
            raise DataError(
                f"prompt {number}: it is empty, and there is no token to continue; begin it with BOS or with a word"
            )
        if len(prompt) >= context:
            raise DataError(
                f"prompt {number}: its {len(prompt):,} tokens leave no room in the model's context of {context:,}; shorten it"
            )
    return [min(settings.max_new_tokens or context, context - len(prompt)) for prompt in prompts]


def _prefill(
    decoder: Any, prompts: Prompts, memory: Any, steps: int, shared: int = 0, inputs: Inputs | None = None
) -> tuple[Any, Tensor]:
    """A cache with the prompts and room for `steps` tokens, and the logits [B, V] of the next tokens."""
    device = decoder.tokens.weight.device
    beginning, prompts = prompts[0][:shared], [prompt[shared:] for prompt in prompts]
    longest = max(map(len, prompts))
    gaps = [longest - len(prompt) for prompt in prompts]
    padding = torch.tensor(gaps, device=device) if any(gaps) else None
    ids = torch.tensor([[0] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)], device=device)
    cache = decoder.new_cache(len(prompts), padding, shared + longest + steps, shared)
    if shared:
        once = decoder.new_cache(1, None, shared)
        decoder.hidden(torch.tensor([beginning], device=device), memory, once)
        cache.kept[:, :, :, :shared] = once.kept
        cache.length = shared
    found = inputs(ids) if inputs else {}
    return cache, decoder.logits(decoder.hidden(ids, memory, cache, **found)[:, -1])


def _seen(prompts: Prompts, logits: Tensor) -> Tensor:
    """[B, V]: a boolean mask of the tokens in each prompt."""
    seen = torch.zeros(len(prompts), logits.shape[-1], dtype=torch.bool, device=logits.device)
    for row, prompt in enumerate(prompts):
        words = [token for token in prompt if token >= 0]
        seen[row, torch.tensor(words, dtype=torch.long, device=logits.device)] = True
    return seen


def _without(scores: Tensor, tokens: list[int]) -> Tensor:
    """Scores [..., V] with some tokens made impossible."""
    return scores.index_fill(-1, torch.tensor(tokens, device=scores.device), -torch.inf) if tokens else scores


def _reordered(memory: Any, rows: Tensor) -> Any:
    return [tuple(part.index_select(0, rows) for part in one) for one in memory]
