"""Settings of the source `coco_captions`."""

from typing import Literal

from glassworks.config.datasets.base import LocalDataset, Splits


class CocoCaptions(LocalDataset):
    """COCO captions in the published layout: annotations/captions_{train,val}2017.json beside train2017/ and val2017/."""

    source: Literal["coco_captions"]
    year: Literal[2014, 2017] = 2017
    """Release."""
    splits: Splits = Splits(validation=0.02, test=0.0)
    """Shares of the *training* images held out; the published val images are our test split."""
