"""Settings of the source `folder`."""

from typing import Literal

from glassworks.config.datasets import Credit, LocalImages, Splits
from glassworks.config.tables import ImageColumns, TableFormat

CREDIT = Credit(
    title="A folder of images with captions",
    licence="Yours to state: glassworks does not know it",
    credit="",
    derivation="Images are copied byte for byte into shards; captions are used as they are, white space at their ends aside.",
)


class Folder(LocalImages, TableFormat):
    """Your own images with a table of captions (CSV, JSONL, JSON or parquet), or with a .txt beside each image."""

    source: Literal["folder"]
    captions: str | None = None
    """Table inside `path`, or a glob of tables such as `*/metadata.jsonl`; `*.txt` is a text beside each image. null finds captions.csv, metadata.jsonl and other usual names. Several rows with one file are several captions of that image."""
    columns: ImageColumns = ImageColumns()
    """Columns of the table; null finds file, caption and split, or usual names for them."""
    images: str | None = None
    """Folder inside `path` that file names are relative to; null finds it: `path`, the table's folder, or the only folder with the first file."""
    splits: Splits = Splits()
    """Held-out shares of the images without a split in the table."""
