"""Settings of the source `flickr30k`."""

from typing import Literal

from glassworks.config.datasets import Credit, LocalImages, Splits

CREDIT = Credit(
    title="Flickr30k: photographs with five captions each",
    licence="Images: Flickr's terms of use, for non-commercial research and education only",
    credit="P. Young, A. Lai, M. Hodosh, J. Hockenmaier: From image descriptions to visual denotations. TACL 2014",
    derivation="Images are copied byte for byte into shards; captions are used as they are.",
)


class Flickr30k(LocalImages):
    """Flickr30k in Kaggle's layout (results.csv and flickr30k_images/) or the published one (results_20130124.token and flickr30k-images/); five captions for each of 31,783 images."""

    source: Literal["flickr30k"]
    karpathy: str | None = None
    """Karpathy's dataset_flickr30k.json inside `path`, which gives an image-level split, and the captions where no table is there; null splits by `splits`."""
    splits: Splits = Splits(validation=0.03, test=0.03)
    """Held-out shares of the images (without `karpathy`)."""
