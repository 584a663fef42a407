"""The stage `records`: a table of records from raw files.

Broken samples are dropped, counted by reason and listed in dropped.json. More than `max_dropped` of them are an error.
Facts that lose no sample, such as images that no row names, are listed in remarks.json.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from glassworks.artifacts.digests import write_json
from glassworks.config.datasets import SPLITS, Split
from glassworks.data.drops import Drops
from glassworks.data.messages import order_fault
from glassworks.data.record_check import check
from glassworks.data.records import TABLE, Dropped, Record, Remark, write_table
from glassworks.data.texts import clean_texts
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.sources.protocol import load_source


@dataclass
class Tally:
    """Counts of the kept samples of a data set, and its dropped ones."""

    dataset: str
    drops: Drops = field(default_factory=Drops)
    samples: Counter[Split] = field(default_factory=Counter)
    captions: int = 0
    messages: int = 0

    def kept(self, items: Iterable[Record | Dropped | Remark]) -> Iterator[Record]:
        """The records among `items`, which are counted, with clean captions."""
        for item in items:
            if not isinstance(item, Record):
                self.drops.add(item)
                continue
            if not item.key or set(item.key) & set("./\\\0"):
                raise DataError(
                    f"{self.dataset}: the key {item.key!r} cannot name a member of a tar (no dots, no slashes)"
                )
            if fault := order_fault(item.messages):
                raise DataError(f"{self.dataset}: record {item.key!r}: {fault}")
            texts, unusable = clean_texts(item.texts)
            if unusable and not texts:
                self.drops.add(Dropped(f"sample {item.key}", unusable[0]))
                continue
            for reason in unusable:
                self.drops.add(Remark(f"a caption is left out, since {reason}", f"sample {item.key}"))
            self.samples[item.split] += 1
            self.captions += len(texts)
            self.messages += len(item.messages)
            yield item if texts == item.texts else replace(item, texts=texts)


def run(context: Context) -> dict[str, Any]:
    """The counts of the written table.

    Raises `DataError` for too many dropped samples, a repeated or invalid key, or an empty training split.
    """
    dataset, allowed, file = context.stage.subject, context.params["max_dropped"], context.output / TABLE
    tally = Tally(dataset)
    write_table(file, tally.kept(load_source(context.params["source"]).records(context)))
    drops, dropped = tally.drops, tally.drops.count
    _say(tally)
    if dropped > allowed:
        raise DataError(
            f"{dataset}: {dropped} samples cannot be used and datasets.{dataset}.max_dropped is {allowed}: {drops.first()}"
        )
    if not tally.samples["train"]:
        held_out = ", ".join(f"{split} {tally.samples[split]:,}" for split in SPLITS if tally.samples[split])
        rest = f"{dropped} dropped: {drops.first()}" if dropped else held_out and f"only {held_out}"
        raise DataError(f"{dataset}: no sample is left for training{f' ({rest})' if rest else ''}")
    check(dataset, file)
    write_json(context.output / "dropped.json", drops.listed())
    counts: dict[str, Any] = {"samples": {split: tally.samples[split] for split in SPLITS}}
    counts |= {"captions": tally.captions, "dropped": dropped}
    if dropped:
        counts["reasons"] = drops.reasons()
    if drops.remarks:
        write_json(context.output / "remarks.json", drops.remarked())
    return counts | ({"messages": tally.messages} if tally.messages else {})


def _say(tally: Tally) -> None:
    """Print the summary on stderr: the counts, the dropped samples by reason, the remarks."""
    by_split = ", ".join(f"{split} {tally.samples[split]:,}" for split in SPLITS)
    first, *others = [f"{tally.samples.total():,} samples ({by_split})", *tally.drops.lines()]
    if tally.drops.dropped:
        first = f"{first}, {others.pop(0)}"
    for line in (first, *others):
        print(f"{tally.dataset}: {line}", file=sys.stderr)
