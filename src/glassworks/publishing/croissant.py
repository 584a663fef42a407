"""Data cards in Croissant (docs.mlcommons.org/croissant): origin, licence, files with digests, and the columns of the records."""

import json
import re
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from glassworks.artifacts.digests import write_json
from glassworks.config.datasets import SPLITS, Credit
from glassworks.data.records import TABLE
from glassworks.errors import ArtifactError
from glassworks.publishing.lineage import Made
from glassworks.publishing.subject import Subject
from glassworks.report.attribution import attribution

CARD = "croissant.json"
VERSION = "http://mlcommons.org/croissant/1.1"
DESCRIBED = {
    "key": "Name of the sample, unique in the data set.",
    "split": "train, validation or test.",
    "group": "Samples of one group share a split.",
    "captions": "Captions of an image, or a text.",
    "labels": "Other metadata, as JSON.",
    "media": "Where the raw files hold the image or sound, as JSON.",
    "messages": "A conversation or a message tree, as JSON.",
    "sizes": "Sizes of the media, as JSON.",
}
"""Columns of records.parquet."""
URL = re.compile(r"\(([a-z0-9-]+(?:\.[a-z0-9-]+)+/[^\s)]+)\)")


def write_data_cards(subject: Subject, target: Path) -> list[str]:
    """Write data/DATASET/croissant.json for each data set that model or scores were made from; returns the paths."""
    shards = subject.made("shards")
    written = []
    for name, records in subject.made("records").items():
        file = target / "data" / name / CARD
        file.parent.mkdir(parents=True)
        write_json(file, data_card(subject, name, records, shards.get(name)))
        written.append(file.relative_to(target).as_posix())
    return written


def licence_url(credit: Credit) -> str:
    """The address in the text of a licence; the text itself if it has none."""
    found = URL.search(credit.licence)
    return f"https://{found[1]}" if found else credit.licence


def data_card(subject: Subject, name: str, records: Made, shards: Made | None) -> dict[str, object]:
    """The card of one data set as JSON-LD. Its files lie in the project; their paths are relative to it."""
    import mlcroissant as mlc

    credit, context = attribution(records.params), mlc.Context(conforms_to=VERSION)
    made = [records, *([shards] if shards else [])]
    files = [
        mlc.FileObject(
            ctx=context,
            id=f"{made_one.directory}/{file}",
            name=f"{made_one.directory}/{file}",
            content_url=f"{made_one.directory}/{file}",
            content_size=f"{entry['size']} B",
            encoding_formats=["application/x-parquet" if file == TABLE else "application/x-tar"],
            sha256=entry["sha256"],
        )
        for made_one in made
        for file, entry in sorted(made_one.manifest.files.items())
        if file == TABLE or file.endswith(".tar")
    ]
    table = f"{records.directory}/{TABLE}"
    fields = [
        mlc.Field(
            ctx=context,
            id=f"records/{column.name}",
            name=column.name,
            description=DESCRIBED.get(column.name, column.name),
            data_types=mlc.DataType.TEXT,
            is_array=True if pa.types.is_list(column.type) else None,
            array_shape="-1" if pa.types.is_list(column.type) else None,
            source=mlc.Source(ctx=context, file_object=table, extract=mlc.Extract(ctx=context, column=column.name)),
        )
        for column in _columns(subject.root / table)
    ]
    counts = records.manifest.counts["samples"]
    splits = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS if split in counts)
    metadata = mlc.Metadata(
        ctx=context,
        name=name,
        description=" ".join(
            filter(None, (f"{credit.title}.", credit.derivation, f"Samples: {splits}." if splits else ""))
        ),
        license=[licence_url(credit)],
        creators=[mlc.Organization(ctx=context, name=credit.credit or "not stated")],
        cite_as=credit.credit or credit.title,
        date_published=datetime.fromisoformat(subject.facts.date),
        version=f"1.0.0+{records.digest[:12]}",
        distribution=files,
        record_sets=[
            mlc.RecordSet(ctx=context, id="records", name="records", description=f"The table {TABLE}.", fields=fields)
        ],
    )
    card = metadata.to_json()
    return json.loads(json.dumps(card, default=str))


def _columns(table: Path) -> list[pa.Field]:
    try:
        return list(pq.read_schema(table))
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{table}: not readable ({error}); check it with `glassworks verify`") from None
