"""Settings of the source `pixmo_points`."""

from typing import Literal

from glassworks.config.datasets import Credit, PointedImages, Splits

CREDIT = Credit(
    title="PixMo-Points: photographs with points on what an expression refers to",
    licence="Points and expressions: ODC-By 1.0. Images: each under the terms of the page that it comes from",
    credit="Allen Institute for AI: allenai/pixmo-points. M. Deitke and others: Molmo and PixMo, 2024",
    derivation="Images are downloaded by their URLs and copied byte for byte into shards; expressions are used in lower "
    "case, in one of a few questions, and points with one decimal.",
)


class PixmoPoints(PointedImages):
    """PixMo-Points in its published layout: parquet files with image_url, image_sha256, points, count, label and collection_method. Images are downloaded."""

    source: Literal["pixmo_points"]
    collection: Literal["pointing", "counting", "all"] = "all"
    """Rows to use, by collection_method: `counting` are images with many objects of a kind."""
    splits: Splits = Splits(validation=0.005, test=0.005)
    """Held-out shares of the images."""
