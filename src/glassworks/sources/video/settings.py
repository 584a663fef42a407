"""Settings of the source `video`."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.datasets import Credit, LocalImages, Splits

CREDIT = Credit(
    title="A folder of videos with captions or questions",
    licence="Yours to state: glassworks does not know it",
    credit="",
    derivation="Videos are copied byte for byte into shards; texts are used as they are, white space at their ends aside.",
)


class Video(LocalImages):
    """Your own videos with a JSONL of {video, caption} or {video, question, answer}: animated WebP and GIF, and MP4, WebM and AVI with the extra `video`."""

    source: Literal["video"]
    table: str | None = None
    """The JSONL (or JSON, or parquet) inside `path`; null finds it if it is the only one. All rows of a video make one message tree."""
    videos: str | None = None
    """Folder inside `path` that the names of videos are relative to; null finds it: `path`, or the only folder with the first video."""
    caption_question: Annotated[str, Field(min_length=1)] = "describe the video."
    """The question that a caption answers."""
    splits: Splits = Splits()
    """Held-out shares of the videos without a `split` in the table. Equal videos share a split."""
