"""Scenes composed from OpenMoji sprites: a pure function of sprites, parameters and seed, with exact labels.

As in CLEVR, held-out scores measure composition: pairs of kinds in validation or test never occur in training.

Labels: `objects` [{name, key, count, boxes [[x0, y0, x1, y1]]}], `relations` [[a, 'left of' or 'above', b]] (all true
ones), `ground` {kind (its texture), color, variant}. Boxes are in pixels and tight.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from glassworks.config.datasets import SPLITS, Split
from glassworks.data.records import Record, read_table
from glassworks.data.scenes.kinds import Kind, Meetings, choose_kinds
from glassworks.data.scenes.language import COLORS, describe
from glassworks.data.scenes.layout import GRID, SIZES, Numbers, Scene, compose, few, relations
from glassworks.data.speech import Speaker, as_flac, speech_versions
from glassworks.errors import ConfigError
from glassworks.pipeline.execution import Context
from glassworks.progress import track
from glassworks.sources.openmoji.source import Drawings, render
from glassworks.sources.protocol import Item, Part, in_order

PART = 10_000
"""Samples of a part: a job may make several. A multiple of those that are composed together."""
FAINT = 24
"""Opacity (of 255) below which a pixel counts as transparent, so that boxes are tight around visible pixels."""


def records(context: Context) -> Iterator[Item]:
    """Every scene of every split. Scene number i of a split does not depend on the number of scenes."""
    return in_order(parts(context))


def parts(context: Context) -> list[Part]:
    """Blocks of scenes."""
    stage = Composition(context)
    if context.params.get("speech"):
        context.fingerprint.update(speech_versions())

    def compose(split: Split, numbers: Iterable[int]) -> Iterator[Record]:
        for index in numbers:
            scene = stage.compose(split, index)
            key = f"{split}-{index:06d}"
            yield Record(key, split, key, describe(scene.view, scene.order), scene_labels(scene), scene_media(scene))

    return stage.parts("scenes", compose)


class Composition:
    """The kinds, the pairs of kinds of each split and the sprites of a composed data set.

    Raises `ConfigError` when a split is asked for to which no pair of kinds belongs.
    """

    def __init__(self, context: Context, fits: "Callable[[Sprites, Kind], bool]" = lambda sprites, kind: True) -> None:
        """`fits` says whether a kind may be chosen, given the sprites."""
        params, name = context.params, context.stage.subject
        self.seed, self.size = params["seed"], params["size"]
        self.sprites = Sprites(Drawings(context.inputs["raw"]), self.size)
        self.kinds = choose_kinds(
            read_table(context.inputs["sprites"]),
            params["kinds"],
            self.seed,
            name,
            lambda kind: fits(self.sprites, kind),
        )
        self.meetings = Meetings(self.kinds, params["held_out_pairs"], self.seed)
        self.wanted: dict[Split, int] = {split: params["samples"].get(split, 0) for split in SPLITS}
        for split in SPLITS:
            if self.wanted[split] and not self.meetings.pairs[split]:
                raise ConfigError(
                    f"datasets.{name}.samples.{split}: none of the pairs of {len(self.kinds)} kinds falls to {split}; "
                    "raise `kinds` or change `held_out_pairs`"
                )

    def parts(self, unit: str, make: Callable[[Split, Iterable[int]], Iterator[Record]]) -> list[Part]:
        """The samples in blocks of `PART`, which `make` composes from split and numbers, with progress."""

        def part(split: Split, numbers: range) -> Iterator[Record]:
            return make(split, track(numbers, f"composing {split}", len(numbers), unit))

        blocks = (
            (split, range(self.wanted[split])[start : start + PART])
            for split in SPLITS
            for start in range(0, self.wanted[split], PART)
        )
        return [partial(part, split, numbers) for split, numbers in blocks]

    def compose(self, split: Split, index: int, numbers: Numbers = few) -> Scene:
        """Scene number `index` of a split."""
        return compose(self.kinds, self.meetings, self.size, self.sprites.measure, self.seed, split, index, numbers)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function that draws a scene from its record: {"png": bytes}, RGB, `size` pixels square; and {"flac": bytes}, its first caption, with `speech`."""
    params = context.params
    size, speech = params["size"], params.get("speech")
    sprites, grounds = Sprites(Drawings(context.inputs["raw"]), size), Grounds(size)
    speaker = Speaker(speech["voice"], speech["speed"], params["seed"]) if speech else None

    def draw(record: Record) -> dict[str, bytes]:
        ground = record.labels["ground"]
        image = grounds.draw(ground["kind"], ground["color"], ground["variant"]).copy()
        for thing, ranks in zip(record.labels["objects"], record.media["ranks"], strict=True):
            for (left, top, *_), rank in zip(thing["boxes"], ranks, strict=True):
                sprite = sprites.draw(thing["key"])[rank]
                image.paste(sprite, (left, top), sprite)
        file = io.BytesIO()
        image.save(file, "png", compress_level=6)
        spoken = {"flac": as_flac(speaker.speak(record.key, record.texts[0]))} if speaker else {}
        return {"png": file.getvalue(), **spoken}

    return draw


def scene_labels(scene: Scene) -> dict[str, Any]:
    """The exact labels of a scene, as the module's docstring describes them."""
    texture, color, variant = scene.ground
    return {
        "objects": [
            {"name": group.kind.name, "key": group.kind.key, "count": len(group.boxes), "boxes": group.boxes}
            for group in scene.groups
        ],
        "relations": relations(scene.groups),
        "ground": {"kind": texture, "color": color, "variant": variant},
    }


def scene_media(scene: Scene) -> dict[str, Any]:
    """The sizes of its sprites, for `media`."""
    return {"ranks": [group.ranks for group in scene.groups]}


class Sprites:
    """Drawings as sprites: cropped to visible pixels, turned, scaled to every size in SIZES, and cached."""

    def __init__(self, drawings: Drawings, canvas: int) -> None:
        self.drawings, self.canvas = drawings, canvas
        self.drawn: dict[tuple[str, int], list[Image.Image]] = {}

    def draw(self, key: str, degrees: int = 0) -> list[Image.Image]:
        """A drawing as RGBA in each of SIZES, with about the area of that square, turned counterclockwise.

        A slender sprite is at most 1.4 times as long.
        """
        if (key, degrees) not in self.drawn:
            whole = render(self.drawings.svg(key.upper()), 2 * self.canvas)
            large = whole.crop(whole.getbbox())
            stretch = min((max(large.size) / min(large.size)) ** 0.5, 1.4) / max(large.size)
            if degrees:
                large = large.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
            self.drawn[key, degrees] = [_scaled(large, size * self.canvas / GRID * stretch) for size in SIZES]
        return self.drawn[key, degrees]

    def measure(self, key: str) -> list[tuple[int, int]]:
        """Width and height of a sprite in pixels, in each of SIZES."""
        return [sprite.size for sprite in self.draw(key)]


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    sprite = image.resize([max(round(side * scale), 1) for side in image.size], Image.Resampling.LANCZOS)
    alpha = sprite.getchannel("A").point(lambda value: value if value >= FAINT else 0)
    sprite.putalpha(alpha)
    return sprite.crop(alpha.getbbox())


class Grounds:
    """Grounds of one colour, plain or with a texture in two shades of it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.drawn: dict[tuple[str, str, int], Image.Image] = {}

    def draw(self, texture: str, color: str, variant: int) -> Image.Image:
        """The RGB ground in the size of the canvas. It is cached, so do not modify it."""
        key = (texture, color, variant)
        if key not in self.drawn:
            shade = np.array(COLORS[color], dtype=np.float64)
            other = shade * 0.86 if shade.min() > 160 else shade + (255 - shade) * 0.35
            mask = self._mask(texture, variant)[..., None]
            self.drawn[key] = Image.fromarray(np.where(mask, other, shade).round().astype(np.uint8))
        return self.drawn[key]

    def _mask(self, texture: str, variant: int) -> np.ndarray:
        """(size, size), boolean: the pixels of the second shade."""
        y, x = np.mgrid[: self.size, : self.size] * (GRID / self.size)
        if texture == "striped":
            along = (x, y, (x + y) / 2**0.5, (x - y) / 2**0.5)[variant]
            return np.floor(along / 5) % 2 == 1
        if texture == "dotted":
            pitch = 9 + variant
            shift = pitch / 2 * (np.floor(x / pitch) % 2)
            across, down = x % pitch - pitch / 2, (y + shift) % pitch - pitch / 2
            return across**2 + down**2 <= 2.3**2
        if texture == "checkered":
            side = 8 + 2 * variant
            return (np.floor(x / side) + np.floor(y / side)) % 2 == 1
        if texture == "speckled":
            noise = np.random.Generator(np.random.Philox(variant)).random((GRID, GRID))
            return noise[y.astype(int), x.astype(int)] < 0.25
        return np.zeros(x.shape, dtype=bool)
