"""Datasets as params.yaml describes them: one model per source, picked by `source:`."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from glassworks.config.datasets.base import SPLITS, Dataset, LocalDataset, Split, Splits, Wheel
from glassworks.config.datasets.coco_captions import CocoCaptions
from glassworks.config.datasets.flickr30k import Flickr30k
from glassworks.config.datasets.folder import Folder
from glassworks.config.datasets.kjv import KingJamesVersion
from glassworks.config.datasets.openmoji import OpenMoji
from glassworks.config.datasets.scenes import Scenes
from glassworks.config.datasets.webdataset import WebDatasetTars

__all__ = [
    "SPLITS",
    "AnyDataset",
    "CocoCaptions",
    "Dataset",
    "Flickr30k",
    "Folder",
    "KingJamesVersion",
    "LocalDataset",
    "OpenMoji",
    "Scenes",
    "Split",
    "Splits",
    "WebDatasetTars",
    "Wheel",
]


def _tag(value: Any) -> str | None:
    source = value.get("source") if isinstance(value, dict) else getattr(value, "source", None)
    return None if source is None else f"source={source}"


AnyDataset = Annotated[
    Annotated[OpenMoji, Tag("source=openmoji")]
    | Annotated[Scenes, Tag("source=scenes")]
    | Annotated[Folder, Tag("source=folder")]
    | Annotated[Flickr30k, Tag("source=flickr30k")]
    | Annotated[CocoCaptions, Tag("source=coco_captions")]
    | Annotated[KingJamesVersion, Tag("source=kjv")]
    | Annotated[WebDatasetTars, Tag("source=webdataset")],
    Discriminator(_tag),
]
