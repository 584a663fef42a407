"""The captions of a sample, read by one rule for records and for training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from glassworks.data.json_files import NotJSON, parse_json
from glassworks.data.texts import clean_texts
from glassworks.errors import DataError

if TYPE_CHECKING:  # records of tars are made without torch
    from glassworks.data.reading.dataset import Sample

TEXTS = ("txt", "text", "caption", "cap")
"""Extensions of the members that are a caption; the first that a sample has."""


class Captions(NamedTuple):
    """The captions of a sample, and what was seen on the way."""

    texts: list[str]
    unusable: list[str]
    """Reasons why captions are left out."""
    content: dict[str, Any]
    """The member json; empty without one."""
    differing: bool
    """Whether json and txt give different captions, of which json's are used."""
    several_lines: bool
    """Whether the caption is a txt of several lines."""


def read_captions(members: Mapping[str, bytes | memoryview], where: str) -> list[str]:
    """The captions of a sample, clean (`clean_text`); an empty list when there are none. Raises as `find_captions` does."""
    return find_captions(members, where).texts


def find_captions(members: Mapping[str, bytes | memoryview], where: str) -> Captions:
    """The captions of a sample: of its json (`captions`, then `caption`), else of its txt, which is one caption.

    Raises `DataError` beginning with `where` when a member is not JSON or not UTF-8.
    """
    try:
        content = parse_json(bytes(members["json"])) if "json" in members else {}
    except NotJSON as error:
        raise DataError(f"{where}: its member json is {error}") from None
    extension = next((name for name in TEXTS if name in members), None)
    try:
        text = bytes(members[extension]).decode() if extension else ""
    except ValueError:
        raise DataError(f"{where}: its member {extension} is not UTF-8") from None
    if not isinstance(content, dict):
        raise DataError(f"{where}: its member json is not a JSON object")
    unusable: list[str] = []
    texts: list[str] = []
    for given in (content.get("captions"), content.get("caption")):
        several = given if isinstance(given, list) else [] if given is None else [given]
        texts, reasons = clean_texts(several)
        unusable += reasons
        if texts:
            break
    beside, reasons = clean_texts([text] if text.strip() else [])
    if texts:
        return Captions(texts, unusable, content, bool(beside) and beside[0] not in texts, False)
    lines = sum(bool(line.strip()) for line in beside[0].splitlines()) if beside else 0
    return Captions(beside, unusable + reasons, content, False, lines > 1)


def captions_of(sample: "Sample") -> list[str]:
    """The captions of a sample. Raises `DataError` for a sample without captions."""
    captions = read_captions(sample.members, sample.where)
    if not captions:
        raise DataError(f"{sample.where}: no caption in its json or txt member")
    return captions


def labels_of(sample: "Sample") -> dict[str, Any]:
    """The labels of a sample that glassworks wrote; empty for other tools."""
    labels = sample.json().get("labels") if "json" in sample.members else None
    return labels if isinstance(labels, dict) else {}
