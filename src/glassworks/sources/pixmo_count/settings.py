"""Settings of the source `pixmo_count`."""

from typing import Literal

from pydantic import Field

from glassworks.config.datasets import Credit, PointedImages, PointQuestion, Splits

CREDIT = Credit(
    title="PixMo-Count: photographs with the number of objects of a kind",
    licence="Counts and points: ODC-By 1.0. Images: each under the terms of the page that it comes from",
    credit="Allen Institute for AI: allenai/pixmo-count. M. Deitke and others: Molmo and PixMo, 2024",
    derivation="Images are downloaded by their URLs and copied byte for byte into shards; labels are used in lower case, "
    "in one of a few questions, and points with one decimal.",
)


class PixmoCount(PointedImages):
    """PixMo-Count in its published layout: parquet files train-, validation- and test- with image_url, image_sha256, count, points and label. Images are downloaded."""

    source: Literal["pixmo_count"]
    questions: list[PointQuestion] = Field(default=["where", "how many"], min_length=1)
    """Questions of each row: `where` is answered by points, `how many` by a number, `point and count` by both as in Molmo. Rows without points have `how many` alone."""
    units: Literal["percent", "pixels"] = "pixels"
    """Units of the published points."""
    splits: Splits | None = None
    """null: the split that the name of a table begins with. Otherwise held-out shares of the images."""
