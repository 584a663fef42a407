"""Settings of the source `texts`."""

from typing import Literal

from glassworks.config.datasets import Credit, LocalDataset, Splits
from glassworks.config.tables import TableFormat, TextColumns

CREDIT = Credit(
    title="A folder of texts",
    licence="Yours to state: glassworks does not know it",
    credit="",
    derivation="Texts are used as they are, white space at their ends aside.",
)


class Texts(LocalDataset, TableFormat):
    """Your own texts: plain text files, JSONL with the key text, or tables (CSV, JSON, parquet) with the column text."""

    source: Literal["texts"]
    files: str = "**"
    """Glob inside `path` of the files to read, such as `train/*.jsonl`; `**` reads every .txt, .md, .jsonl, .json, .csv, .tsv and .parquet."""
    unit: Literal["document", "paragraph", "line"] = "document"
    """What a plain text file holds: one document, paragraphs between blank lines, or one text a line. A row of a table is always one text."""
    columns: TextColumns = TextColumns()
    """Columns of the tables; null finds text and split, or usual names for them."""
    splits: Splits = Splits()
    """Held-out shares of the texts without a split in their table. Equal texts share a split."""
