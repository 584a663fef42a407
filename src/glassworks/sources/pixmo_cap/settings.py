"""Settings of the source `pixmo_cap`."""

from typing import Literal

from glassworks.config.datasets import Credit, RemoteImages, Splits

CREDIT = Credit(
    title="PixMo-Cap: photographs with long captions",
    licence="Captions and transcripts: ODC-By 1.0. Images: each under the terms of the page that it comes from",
    credit="Allen Institute for AI: allenai/pixmo-cap. M. Deitke and others: Molmo and PixMo, 2024",
    derivation="Images are downloaded by their URLs and copied byte for byte into shards; captions and transcripts are "
    "used as published.",
)


class PixmoCap(RemoteImages):
    """PixMo-Cap in its published layout: parquet files with image_url, caption and transcripts. Images are downloaded."""

    source: Literal["pixmo_cap"]
    transcripts: Literal["one", "all", "none"] = "one"
    """Transcripts of spoken descriptions that become branches of an image's message tree. `one` draws one for each caption."""
    splits: Splits = Splits(validation=0.005, test=0.005)
    """Held-out shares of the images."""
