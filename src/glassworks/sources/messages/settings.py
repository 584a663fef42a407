"""Settings of the source `messages`."""

from typing import ClassVar, Literal

from glassworks.config.datasets import Credit, LocalDataset, Splits

CREDIT = Credit(
    title="Your own conversations",
    licence="Yours to state: glassworks does not know it",
    credit="",
    derivation="Conversations are brought into one form; their texts are used as they are.",
)


class Messages(LocalDataset):
    """Your own conversations: JSONL, JSON or parquet in the form of alpaca, ShareGPT, OpenAI (ChatML) or prompt and completion."""

    single_files: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".json", ".parquet")

    source: Literal["messages"]
    files: str = "**"
    """Glob inside `path` of the files to read, such as `train/*.jsonl`; `**` reads every .jsonl, .ndjson, .json and .parquet. `path` may also be one file."""
    splits: Splits = Splits()
    """Held-out shares of the conversations, if neither a column `split` nor the names of the files (train, validation, test) give the split. Conversations
    with equal user messages share a split.
    """
