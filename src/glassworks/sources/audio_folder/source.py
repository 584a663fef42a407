"""The source `audio_folder`: your own sounds with a table of transcripts, one row for each sound.

Several text columns are several texts of a sound. An optional `speaker` groups the sounds of a person, so that they share a split.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from glassworks.data.captioned_images import named_split
from glassworks.data.file_names import FileNames
from glassworks.data.image_files import LocalFiles
from glassworks.data.layouts import find_tables
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.spoken_files import Spoken, sound_media, spoken_records
from glassworks.data.tables import Layout, Row, read_rows
from glassworks.data.texts import UnusableText, clean_texts
from glassworks.pipeline.execution import Context

media = sound_media


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every sound of the tables, in the order of their rows."""
    return spoken_records(context, _rows(context))


def _rows(context: Context) -> Iterator[Spoken | Dropped | Remark]:
    params, key = context.params, f"params.yaml: datasets.{context.stage.subject}"
    files = LocalFiles(context)
    names = FileNames(files.folder, files.inventory, params["folder"])
    for table in find_tables(files.inventory, params["table"], f"{key}.table"):
        base = str(PurePosixPath(table).parent).removeprefix(".")
        layout = Layout(
            key,
            optional=("split", "speaker"),
            columns=params["columns"],
            separator=params["separator"],
            encoding=params["encoding"],
            is_file=lambda cell, base=base: names.exists(cell, base),  # type: ignore[misc]
        )
        for row in read_rows(files.folder / table, table, layout):
            yield _spoken(row, names, base) if isinstance(row, Row) else row


def _spoken(row: Row, names: FileNames, base: str) -> Spoken | Dropped:
    split, fault = named_split(row.split)
    texts, reasons = clean_texts(row.captions)
    if fault or not texts:
        return Dropped(row.where, fault or (reasons[0] if reasons else "no transcript"))
    try:
        file = names.find(row.file, base)
    except UnusableText as error:
        return Dropped(row.where, str(error))
    speaker = "" if row.speaker is None or row.speaker != row.speaker else str(row.speaker).strip()
    return Spoken(row.where, file, texts, speaker or file, split, {"speaker": speaker} if speaker else {})
