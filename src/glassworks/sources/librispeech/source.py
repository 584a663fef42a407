"""The source `librispeech`: SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with lines `ID TEXT`, and ID.flac beside it."""

import re
from collections.abc import Iterator

from glassworks.config.base import nearest
from glassworks.config.datasets import Split
from glassworks.data.image_files import LocalFiles
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.spoken_files import Spoken, sound_media, spoken_records
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

TRANSCRIPT = re.compile(r"(?:.*/)?(?P<subset>[^/]+)/(?P<speaker>\d+)/(?P<chapter>\d+)/\d+-\d+\.trans\.txt")
PUBLISHED: dict[str, Split] = {"train": "train", "dev": "validation", "test": "test"}
"""Splits by the first word of a subset."""

media = sound_media


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every utterance, sorted by subset and file."""
    return spoken_records(context, _utterances(context))


def _utterances(context: Context) -> Iterator[Spoken | Dropped | Remark]:
    params, files = context.params, LocalFiles(context)
    key = f"params.yaml: datasets.{context.stage.subject}"
    found = {name: match for name in sorted(files.inventory) if (match := TRANSCRIPT.fullmatch(name))}
    subsets = sorted({match["subset"] for match in found.values()})
    if not found:
        raise DataError(
            f"{key}.path: no SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt in it; expected LibriSpeech as published"
        )
    for name in params["subsets"] or []:
        if name not in subsets:
            raise DataError(f"{key}.subsets: there is no subset {name!r}{nearest(name, subsets)}")
    sexes = _sexes(files)
    for name, match in found.items():
        subset, speaker = match["subset"], match["speaker"]
        if params["subsets"] is not None and subset not in params["subsets"]:
            continue
        split = PUBLISHED.get(subset.partition("-")[0]) if params["splits"] is None else None
        if params["splits"] is None and split is None:
            raise DataError(f"{key}.splits: the subset {subset!r} has no published split; set shares of the speakers")
        labels = {"speaker": speaker, "chapter": match["chapter"], "subset": subset}
        labels |= {"sex": sexes[speaker]} if speaker in sexes else {}
        for number, line in enumerate(files.read(name).decode("utf-8", "replace").splitlines(), start=1):
            utterance, _, text = line.strip().partition(" ")
            if not utterance:
                continue
            where = f"{name} line {number}"
            if not text.strip():
                yield Dropped(where, "no transcript")
                continue
            yield Spoken(where, f"{name.rpartition('/')[0]}/{utterance}.flac", [text], speaker, split, labels)


def _sexes(files: LocalFiles) -> dict[str, str]:
    """F or M by speaker, from the rows `ID | SEX | SUBSET | MINUTES | NAME` of SPEAKERS.TXT; empty without it."""
    name = next((name for name in files.inventory if name.rpartition("/")[2] == "SPEAKERS.TXT"), None)
    rows = files.read(name).decode("utf-8", "replace").splitlines() if name else []
    cells = [[cell.strip() for cell in row.split("|")] for row in rows if not row.startswith(";")]
    return {row[0]: row[1] for row in cells if len(row) >= 2}
