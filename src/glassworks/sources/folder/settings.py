"""Settings of the source `folder`."""

from typing import Literal

from glassworks.config.datasets import Credit, LocalImages, Splits

CREDIT = Credit(
    title="A folder of images with captions",
    licence="Yours to state: glassworks does not know it",
    credit="",
    derivation="Images are copied byte for byte into shards; captions are used as they are.",
)


class Folder(LocalImages):
    """Your own images with a CSV (columns file, caption) or JSONL (keys file, caption or captions)."""

    source: Literal["folder"]
    captions: str = "captions.csv"
    """CSV or JSONL inside `path`. Several rows with one file are several captions of that image. An optional `split` column or key fixes the split."""
    splits: Splits = Splits()
    """Held-out shares of the images without a split in the table."""
