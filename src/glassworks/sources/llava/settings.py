"""Settings of the source `llava`."""

from typing import Literal

from glassworks.config.datasets import Credit, LocalImages, Splits

CREDIT = Credit(
    title="A folder of images and videos with conversations in LLaVA's layout",
    licence="Yours to state: glassworks does not know it",
    credit="H. Liu and others: Visual Instruction Tuning, NeurIPS 2023 (the layout)",
    derivation="Images and videos are copied byte for byte into shards; texts are used as they are, the placeholders <image> and <video> and white "
    "space at their ends aside.",
)


class Llava(LocalImages):
    """Images and videos with conversations in LLaVA's layout: a JSON list of {id, image or video, conversations: [{from, value}]}, and a folder of both."""

    source: Literal["llava"]
    conversations: str | None = None
    """The JSON file inside `path`; null finds it if it is the only .json there."""
    images: str | None = None
    """Folder inside `path` that the names of images are relative to; null finds it: `path`, or the only folder with the first image."""
    splits: Splits = Splits()
    """Held-out shares of the images, and of the rows without one. Equal images share a split, and so do equal texts."""
