"""Settings of the source `folder`."""

from typing import Literal

from glassworks.config.datasets.base import LocalDataset, Splits


class Folder(LocalDataset):
    """Your own images with a CSV (columns file, caption) or JSONL (keys file, caption or captions) beside them."""

    source: Literal["folder"]
    captions: str = "captions.csv"
    """CSV or JSONL inside `path`; several rows of one file are several captions of it. An optional `split` column or key fixes the split."""
    splits: Splits = Splits()
    """Held-out shares of the images (where the rows name no split)."""
