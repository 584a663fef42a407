"""The captions of a sample, read by one rule for records and for training."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from glassworks.errors import DataError

if TYPE_CHECKING:  # records of tars are made without torch
    from glassworks.data.reading.dataset import Sample


def read_captions(members: Mapping[str, bytes | memoryview], where: str) -> list[str]:
    """The captions of a sample, stripped and without blank ones; an empty list when there are none.

    The member json comes first (`captions`, then `caption`), the member txt last. Raises `DataError` beginning with
    `where` when a member is not JSON or not UTF-8.
    """
    try:
        content = json.loads(bytes(members["json"])) if "json" in members else {}
    except ValueError:
        raise DataError(f"{where}: its member json is not JSON") from None
    try:
        text = bytes(members["txt"]).decode() if "txt" in members else ""
    except ValueError:
        raise DataError(f"{where}: its member txt is not UTF-8") from None
    if not isinstance(content, dict):
        raise DataError(f"{where}: its member json is not a JSON object")
    several = content.get("captions")
    for given in (several if isinstance(several, list) else [several], [content.get("caption")], [text]):
        captions = [caption.strip() for caption in given if isinstance(caption, str) and caption.strip()]
        if captions:
            return captions
    return []


def captions_of(sample: "Sample") -> list[str]:
    """The captions of a sample. Raises `DataError` for a sample without captions."""
    captions = read_captions(sample.members, sample.where)
    if not captions:
        raise DataError(f"{sample.where}: no caption in its json or txt member")
    return captions
