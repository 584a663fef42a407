"""Settings of the source `audio_folder`."""

from typing import Literal

from glassworks.config.datasets import Credit, LocalDataset, Splits
from glassworks.config.tables import SoundColumns, TableFormat

CREDIT = Credit(
    title="A folder of sounds with transcripts",
    licence="Yours to state: glassworks does not know it",
    credit="",
    derivation="Sounds are copied byte for byte into shards; transcripts are used as they are, white space at their ends aside.",
)


class AudioFolder(LocalDataset, TableFormat):
    """Your own sounds (WAV, FLAC, MP3, Ogg) with a table of transcripts (CSV, JSONL, JSON or parquet)."""

    source: Literal["audio_folder"]
    table: str | None = None
    """Table inside `path`, or a glob of tables; null finds captions.csv, metadata.jsonl and other usual names."""
    columns: SoundColumns = SoundColumns()
    """Columns of the table; null finds file, caption, split and speaker, or usual names for them."""
    folder: str | None = None
    """Folder inside `path` that file names are relative to; null finds it."""
    splits: Splits = Splits()
    """Held-out shares of the speakers without a split in the table; without a speaker, of the sounds."""
