"""Settings of the source `openorca`."""

from typing import ClassVar, Literal

from glassworks.config.datasets import Credit, LocalDataset, Splits

CREDIT = Credit(
    title="OpenOrca",
    licence="MIT",
    credit="Open-Orca/OpenOrca: questions of the FLAN collection with answers of GPT-3.5 and GPT-4",
    derivation="The system prompt is the system message, the question the user's, the response the assistant's. An empty system prompt is left out.",
)


class OpenOrca(LocalDataset):
    """OpenOrca (MIT) in its published layout: parquet or JSONL files with id, system_prompt, question and response."""

    single_files: ClassVar[tuple[str, ...]] = (".jsonl", ".parquet")

    source: Literal["openorca"]
    files: str = "**"
    """Glob inside `path` of the files to read, such as `1M-GPT4-Augmented.parquet`; `**` reads every .parquet and .jsonl. `path` may also be one file."""
    splits: Splits = Splits(validation=0.005, test=0.005)
    """Held-out shares of the questions. Rows with equal questions share a split, whatever their system prompts and answers are."""
