"""The captions of a sample, wherever its members keep them: the one rule for records and for training."""

import json
from collections.abc import Mapping

from glassworks.errors import DataError


def read_captions(members: Mapping[str, bytes | memoryview], where: str) -> list[str]:
    """`captions` or `caption` of the member json (glassworks, img2dataset), else the member txt; empty when there is
    none. Blank ones do not count, and white space around them is no part of them.

    Raises `DataError` beginning with `where` when a member is not JSON or not UTF-8.
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
