"""Settings of the source `coco_captions`."""

from typing import Literal

from glassworks.config.datasets import Credit, LocalImages, Splits

CREDIT = Credit(
    title="COCO: photographs with five captions each",
    licence="Captions: CC BY 4.0. Images: Flickr's terms of use, each under the licence its owner chose",
    credit="T.-Y. Lin and others: Microsoft COCO, ECCV 2014. X. Chen and others: Microsoft COCO Captions, 2015",
    derivation="Images are copied byte for byte into shards; captions are used as they are.",
)


class CocoCaptions(LocalImages):
    """COCO captions in the published layout: annotations/captions_{train,val}2017.json, train2017/ and val2017/."""

    source: Literal["coco_captions"]
    year: Literal[2014, 2017] = 2017
    """Year of the release."""
    karpathy: str | None = None
    """Karpathy's dataset_coco.json inside `path`, which gives captions and splits in place of the annotations."""
    splits: Splits = Splits(validation=0.02, test=0.0)
    """Shares of the *training* images held out; the published val images are our test split."""
