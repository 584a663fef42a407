"""Attention maps for each word of a caption: gated cross-attention, averaged over heads and blocks, drawn over the image."""

import math
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from glassworks.data.reading.images import normalise
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import ConfigError
from glassworks.generation.text import TextStream
from glassworks.models.captioner import Captioner

STRENGTH = 0.65
"""Opacity of the colours over the grey image."""
COLUMNS = 6
"""Pictures per row."""
SIDE, TITLE, HEADING = 1.7, 0.26, 0.26
"""Size in inches of a picture, of the title above each picture, and of the legend above all pictures."""
LINE = 110
"""Maximum characters per line of the caption."""
LEGEND = "bright: where the model looked when it chose the word (cross-attention, mean over heads and blocks)"
INK, MUTED = "#1d2023", "#62686e"


class Word(NamedTuple):
    """A word of a caption with its attention map."""

    text: str
    attention: Tensor
    """[I, I], sums to 1."""


def word_attention(model: Captioner, image: Tensor, ids: list[int], tokenizer: TextTokenizer) -> list[Word]:
    """The words of the caption `ids` with their attention over the image, uint8 [3, I, I]. A word averages the maps of its tokens."""
    if not ids:
        return []
    maps = token_attention(model, normalise(image)[None], [tokenizer.bos, *ids])
    stream = TextStream(tokenizer.text, tokenizer.settled, [tokenizer.bos])
    words: list[tuple[str, list[Tensor]]] = []
    for token, attention in zip(ids, maps, strict=True):
        piece = stream.add(token)
        if not words or piece[:1].isspace():
            words.append(("", []))
        words[-1] = words[-1][0] + piece, [*words[-1][1], attention]
    words[-1] = words[-1][0] + stream.end(), words[-1][1]
    return [Word(text.strip(), torch.stack(parts).mean(0)) for text, parts in words]


@torch.inference_mode()
def token_attention(model: Captioner, image: Tensor, ids: list[int]) -> Tensor:
    """Attention maps [T - 1, I, I] of all tokens in `ids` after BOS, each from the step that predicts the token. `image` is [1, 3, I, I]."""
    seen: list[Tensor] = []
    hooks = [
        block.cross_attention.register_forward_hook(
            lambda module, arguments, _: seen.append(_on_image(module.weights(*arguments), image.shape[-1]))
        )
        for block in model.decoder.blocks
    ]
    try:
        model(image, torch.tensor([ids[:-1]]))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(seen).mean(0)


def _on_image(weights: Tensor, size: int) -> Tensor:
    """Attention weights [1, H, T, N] as smooth maps [T, I, I]: averaged over heads, without the class token, each sums to 1."""
    places = weights[0].mean(0)  # [T, N]
    side = math.isqrt(places.shape[1])
    if side**2 + 1 == places.shape[1]:
        places = places[:, 1:]
    elif side**2 != places.shape[1]:
        raise ConfigError(f"--attention: the {places.shape[1]} image tokens of this model form no square")
    grid = F.interpolate(places.view(-1, 1, side, side), size=(size, size), mode="bicubic").clamp(min=0)[:, 0]
    return grid / grid.sum((1, 2), keepdim=True)


def overlaid(image: Tensor, words: list[Word]) -> list[np.ndarray]:
    """For each word the grey image, uint8 [3, I, I], overlaid with its attention: uint8 [I, I, 3]. All words share one colour scale."""
    grey = 0.3 + 0.7 * image.permute(1, 2, 0).numpy().mean(2, keepdims=True) / 255
    most = max((float(word.attention.max()) for word in words), default=1.0)
    found = []
    for word in words:
        colours = colormaps["inferno"](word.attention.numpy() / most)[..., :3]
        found.append(np.round(255 * ((1 - STRENGTH) * grey + STRENGTH * colours)).astype(np.uint8))
    return found


def draw_attention(file: Path, name: str, image: Tensor, caption: str, words: list[Word]) -> None:
    """Write a PNG: the image, then for each word the grey image overlaid with its attention. All words share one colour scale."""
    lines = wrap(f"“{_drawable(caption.strip())}”", LINE)
    rows, heading = math.ceil((len(words) + 1) / COLUMNS), HEADING + 0.2 * len(lines)
    width, height = SIDE * COLUMNS, (SIDE + TITLE) * rows + heading
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    edge = 0.08 / width
    figure.text(edge, 1 - 0.1 / height, "\n".join(lines), va="top", fontsize=11, color=INK, parse_math=False)
    figure.text(edge, 1 - heading / height, LEGEND, va="bottom", fontsize=8, color=MUTED)
    figure.subplots_adjust(edge, 0.06 / height, 1 - edge, 1 - (heading + TITLE) / height, 0.05, TITLE / SIDE)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten().tolist()
    for place in axes:
        place.set_axis_off()
    axes[0].imshow(image.permute(1, 2, 0).numpy(), interpolation="bilinear")
    axes[0].set_title(name, fontsize=9, color=MUTED, pad=3, parse_math=False)
    for place, word, picture in zip(axes[1:], words, overlaid(image, words), strict=False):
        place.imshow(picture, interpolation="bilinear")
        place.set_title(_drawable(word.text), fontsize=9, color=INK, pad=3, parse_math=False)
    figure.savefig(file, metadata={"Software": None})


def _drawable(text: str) -> str:
    """The text with a replacement for every character that no font draws."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
