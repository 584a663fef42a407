"""Concepts of emoji: variants in skin tone, gender and direction, and their English names.

Concepts are derived from code points and names, never from drawings. A split by concept keeps near-duplicates of
training images out of the test set.
"""

import re
from dataclasses import dataclass, field

JOINER, PRESENTATION = "200D", "FE0F"
TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
SIGNS = {"2640": "woman", "2642": "man"}
PERSON, CHILD = "1F9D1", "1F9D2"

GENDERS: dict[str, dict[str, str]] = {
    PERSON: {"1F468": "man", "1F469": "woman"},
    CHILD: {"1F466": "boy", "1F467": "girl"},
    "1F9D3": {"1F474": "man", "1F475": "woman"},
    "1FAC5": {"1F934": "man", "1F478": "woman"},
    "1F9D1-200D-1F384": {"1F385": "man", "1F936": "woman"},
    "1FAC4": {"1FAC3": "man", "1F930": "woman"},
    "1F6BB": {"1F6B9": "man", "1F6BA": "woman"},
    "1F9D1-200D-1F91D-200D-1F9D1": {"1F46B": "woman and man", "1F46C": "man", "1F46D": "woman"},
    "person dancing": {"1F57A": "man", "1F483": "woman"},
    "gender sign": {"2642": "man", "2640": "woman"},
}
"""Gendered emoji of one code point by concept, which is the neutral emoji (or a name if Unicode has none)."""

ACTIVITIES = {
    "1F9D1-200D-1F430-200D-1F9D1": "1F46F",
    "1F9D1-200D-1FAEF-200D-1F9D1": "1F93C",
    "1F9D1-200D-2764-200D-1F48B-200D-1F9D1": "1F48F",
    "1F9D1-200D-2764-200D-1F9D1": "1F491",
    "1FAF1-200D-1FAF2": "1F91D",
}
"""Sequences of two people (each may have a skin tone), and the single emoji of the same activity."""
FAMILY = "1F46A"
PEOPLE = ("man", "woman", "person", "boy", "girl", "child", "adult")
COARSE = ("shit", "hankey")
"""Vulgar aliases, left out of captions."""

DIRECTIONS: dict[str, dict[str, str]] = {
    "backhand index pointing": {"1F448": "left", "1F449": "right", "1F446": "up", "1F447": "down"},
    "fist facing sideways": {"1F91B": "left", "1F91C": "right"},
    "hand held sideways": {"1FAF2": "left", "1FAF1": "right"},
    "pushing hand": {"1FAF7": "left", "1FAF8": "right"},
    "flat palm": {"1FAF3": "down", "1FAF4": "up"},
    "thumb": {"1F44D": "up", "1F44E": "down"},
    "magnifying glass": {"1F50D": "left", "1F50E": "right"},
    "red triangle": {"1F53A": "up", "1F53B": "down"},
    "vertical button": {"1F53C": "up", "1F53D": "down"},
    "fast vertical button": {"23EB": "up", "23EC": "down"},
    "play button": {"25B6": "right", "25C0": "left"},
    "fast button": {"23E9": "right", "23EA": "left"},
    "track button": {"23ED": "right", "23EE": "left"},
    "quarter moon": {"1F313": "right", "1F317": "left"},
    "crescent moon in the sky": {"1F312": "right", "1F318": "left"},
    "gibbous moon": {"1F314": "right", "1F316": "left"},
    "quarter moon face": {"1F31B": "right", "1F31C": "left"},
    "two-headed arrow": {"2194": "sideways", "2195": "vertical"},
    "arrow turning back": {"21A9": "left", "21AA": "right"},
    "curving arrow": {"2934": "up", "2935": "down"},
    "arrow": {
        "2B05": "left", "27A1": "right", "2B06": "up", "2B07": "down",
        "2196": "up-left", "2197": "up-right", "2198": "down-right", "2199": "down-left",
    },
}  # fmt: skip
"""Mirrored or turned drawings of each concept."""

NEUTRAL = {code: concept for concept, codes in GENDERS.items() for code in codes}
GENDER = {code: gender for codes in GENDERS.values() for code, gender in codes.items()} | SIGNS
TURNED = {code: (concept, way) for concept, codes in DIRECTIONS.items() for code, way in codes.items()}


@dataclass(frozen=True)
class Variant:
    """The parts of an emoji: concept, skin tones, genders and direction."""

    concept: str
    """The concept's neutral emoji (see `plain`), or our own name if Unicode has none."""
    skin_tones: list[str] = field(default_factory=list)
    genders: list[str] = field(default_factory=list)
    """Of each person with a gender: man, woman, boy, girl."""
    direction: str = ""


def plain(sequence: str) -> str:
    """Code points joined by '-', without presentation selectors, which fonts and lists use inconsistently."""
    return "-".join(code for code in sequence.upper().split("-") if code != PRESENTATION)


def variant(sequence: str) -> Variant:
    """The parts of an emoji given as code points joined by '-'."""
    codes = plain(sequence).split("-")
    if len(codes) == 1 and codes[0] in TONES:
        return Variant("skin tone", [TONES[codes[0]]])
    tones = [TONES[code] for code in codes if code in TONES]
    parts = "-".join(code for code in codes if code not in TONES).split(f"-{JOINER}-")
    direction = ""
    if len(parts) > 1 and parts[-1] == "27A1":
        parts, direction = parts[:-1], "right"
    genders = [GENDER[part] for part in parts if part in GENDER]
    if len(parts) > 1:
        parts = [part for part in parts if part not in SIGNS]
    parts = [NEUTRAL.get(part, part) for part in parts]
    concept = f"-{JOINER}-".join(parts)
    concept = ACTIVITIES.get(concept, concept)
    if len(parts) > 1 and set(parts) <= {PERSON, CHILD}:
        concept = FAMILY
    if concept in TURNED:
        concept, direction = TURNED[concept]
    return Variant(concept, tones, genders, direction)


def words(name: str) -> str:
    """A name in plain English.

    ':red_apple:' -> 'red apple'; 'flag: Kenya' -> 'flag of Kenya';
    'man: medium skin tone, beard' -> 'man with medium skin tone and beard'.
    """
    text = name.strip(":").replace("_", " ").replace("’", "'").replace("“", "").replace("”", "")
    text = re.sub(r"^flag for ", "flag: ", text)
    base, colon, rest = text.partition(": ")
    if not colon:
        base, rest = _tones_last(text)
    if base in ("flag", "keycap"):
        return f"flag of {rest}" if base == "flag" else f"keycap {rest}"
    details = rest.split(", ") if rest else []
    tones = [detail.removesuffix(" skin tone") for detail in details if detail.endswith(" skin tone")]
    people = [detail for detail in details if detail in PEOPLE]
    traits = [detail for detail in details if detail not in people and not detail.endswith(" skin tone")]
    if "bald" in traits:
        base, traits = f"bald {base}", [trait for trait in traits if trait != "bald"]
    if tones:
        traits.insert(0, f"{_list(tones)} skin tone{'s' if len(tones) > 1 else ''}")
    shown = f"{base}, {_list(people)}" if people else base
    return f"{shown}{',' if people else ''} with {_list(traits)}" if traits else shown


def _tones_last(text: str) -> tuple[str, str]:
    tones = "|".join(TONES.values())
    found = re.fullmatch(rf"(?P<base>.+?)(?P<tones>(?: (?:{tones}) skin tone)+)", text)
    if not found:
        return text, ""
    return found["base"], ", ".join(re.findall(rf" ((?:{tones}) skin tone)", found["tones"]))


def _list(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def captions(names: list[str]) -> list[str]:
    """The names as plain English, in order, without repeats and without shorthand such as '+1', 'u7a7a' or 'm'.

    Names that differ only in case, spacing or punctuation are repeats. The first name is always kept.
    """
    kept: list[str] = []
    seen: set[str] = set()
    for name in names:
        text = words(name)
        forms = {_letters(name), _letters(text)}
        shorthand = len(text) < 3 or any(letter.isdigit() for letter in text) or text in COARSE
        if not kept or not (shorthand or forms & seen):
            kept.append(text)
            seen |= forms
    return kept


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.casefold())
