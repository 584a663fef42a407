"""The stage `records`: a table of records from raw files.

Broken samples are dropped, counted and listed in dropped.json. More than `max_dropped` of them are an error.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from glassworks.artifacts.digests import write_json
from glassworks.config.datasets import SPLITS, Split
from glassworks.data.messages import order_fault
from glassworks.data.records import TABLE, Dropped, Record, write_table
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.sources.protocol import load_source


@dataclass
class Tally:
    """Counts of the kept samples of a data set, and its dropped ones."""

    dataset: str
    dropped: list[Dropped] = field(default_factory=list)
    samples: Counter[Split] = field(default_factory=Counter)
    captions: int = 0
    messages: int = 0

    def kept(self, items: Iterable[Record | Dropped]) -> Iterator[Record]:
        """The records among `items`, which are counted."""
        for item in items:
            if isinstance(item, Dropped):
                self.dropped.append(item)
                continue
            if not item.key or set(item.key) & set("./\\\0"):
                raise DataError(
                    f"{self.dataset}: the key {item.key!r} cannot name a member of a tar (no dots, no slashes)"
                )
            if fault := order_fault(item.messages):
                raise DataError(f"{self.dataset}: record {item.key!r}: {fault}")
            self.samples[item.split] += 1
            self.captions += len(item.texts)
            self.messages += len(item.messages)
            yield item


def run(context: Context) -> dict[str, Any]:
    """The counts of the written table.

    Raises `DataError` for too many dropped samples, a repeated or invalid key, or an empty training split.
    """
    dataset, allowed, file = context.stage.subject, context.params["max_dropped"], context.output / TABLE
    tally = Tally(dataset)
    write_table(file, tally.kept(load_source(context.params["source"]).records(context)))
    dropped = tally.dropped
    if len(dropped) > allowed:
        first = "; ".join(f"{item.where}: {item.reason}" for item in dropped[:3])
        more = f" (and {len(dropped) - 3} more)" if len(dropped) > 3 else ""
        raise DataError(
            f"{dataset}: {len(dropped)} samples cannot be used and datasets.{dataset}.max_dropped is {allowed}: {first}{more}"
        )
    if not tally.samples["train"]:
        raise DataError(f"{dataset}: no sample is left for training")
    check(dataset, file)
    write_json(context.output / "dropped.json", [{"where": item.where, "reason": item.reason} for item in dropped])
    by_split = {split: tally.samples[split] for split in SPLITS}
    counts = {"samples": by_split, "captions": tally.captions, "dropped": len(dropped)}
    return counts | ({"messages": tally.messages} if tally.messages else {})


def check(dataset: str, file: Path) -> None:
    """Raise `DataError` unless keys are unique and every group is in one split."""
    table = pq.read_table(file, columns=["key", "split", "group"])
    keys = pc.value_counts(table["key"])
    repeated = keys.filter(pc.greater(keys.field("counts"), 1))
    if len(repeated):
        raise DataError(f"{dataset}: two samples have the key {repeated[0]['values'].as_py()!r}")
    groups = table.group_by("group", use_threads=False).aggregate([("split", "count_distinct")])
    torn = groups.filter(pc.field("split_count_distinct") > 1)["group"]
    if len(torn):
        raise DataError(f"{dataset}: the group {torn[0].as_py()!r} is in two splits")
