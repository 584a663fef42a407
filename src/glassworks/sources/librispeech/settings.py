"""Settings of the source `librispeech`."""

from typing import Literal

from glassworks.config.datasets import Credit, LocalDataset, Splits

CREDIT = Credit(
    title="LibriSpeech",
    licence="CC BY 4.0 (creativecommons.org/licenses/by/4.0)",
    credit="LibriSpeech (c) 2014 by Vassil Panayotov, from recordings of LibriVox",
    derivation="The FLAC files are copied byte for byte into shards; transcripts are used as published, in capitals.",
)


class LibriSpeech(LocalDataset):
    """LibriSpeech (CC BY 4.0) as published: one or several subsets, such as train-clean-100 and dev-clean, in the folder LibriSpeech."""

    source: Literal["librispeech"]
    subsets: list[str] | None = None
    """Subsets to read; null reads all that are there."""
    splits: Splits | None = None
    """null: the published splits, by the names of the subsets (train-…, dev-…, test-…). Otherwise held-out shares of the speakers."""
