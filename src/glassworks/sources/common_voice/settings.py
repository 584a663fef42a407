"""Settings of the source `common_voice`."""

from typing import Literal

from glassworks.config.datasets import Credit, LocalDataset, Splits

CREDIT = Credit(
    title="Common Voice",
    licence="CC0 1.0 (creativecommons.org/publicdomain/zero/1.0), under the terms of Mozilla Data Collective",
    credit="Mozilla Common Voice and its volunteers. Do not try to find out who speaks",
    derivation="The clips are copied byte for byte into shards; sentences are used as published.",
)


class CommonVoice(LocalDataset):
    """Common Voice as Mozilla Data Collective publishes it: the tarball of one language, or its folder, with TSV tables and clips/."""

    source: Literal["common_voice"]
    locale: str | None = None
    """Language, such as `en`, if the folder holds several."""
    splits: Splits | None = None
    """null: the published train.tsv, dev.tsv and test.tsv. Otherwise validated.tsv with these held-out shares of the speakers."""
