"""The stage `records`: a table of records from raw files. Jobs make parts of it in parallel where the source can cut its samples.

Broken samples are dropped, counted by reason and listed in dropped.json. More than `max_dropped` of them are an error.
Facts that lose no sample, such as images that no row names, are listed in remarks.json.
"""

import json
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from glassworks.artifacts.digests import flush_to_disk, write_json
from glassworks.config.datasets import SPLITS, Split
from glassworks.data.drops import Drops
from glassworks.data.messages import order_fault
from glassworks.data.record_check import check
from glassworks.data.records import TABLE, Dropped, Pictures, Record, Remark, join_tables, write_table
from glassworks.data.texts import clean_texts
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.sources.protocol import Item, Part, PartedSource, load_source


@dataclass
class Tally:
    """Counts of the kept samples of a data set, and its dropped ones."""

    dataset: str
    drops: Drops = field(default_factory=Drops)
    samples: Counter[Split] = field(default_factory=Counter)
    captions: int = 0
    messages: int = 0
    images: dict[Split, "array[int]"] = field(default_factory=lambda: {split: array("Q") for split in SPLITS})
    """64 bits of the digest of each image, from sources that compare them."""

    def kept(self, items: Iterable[Item]) -> Iterator[Record]:
        """The records among `items`, which are counted, with clean captions."""
        for item in items:
            if isinstance(item, Pictures):
                self.images[item.split].extend(item.digests)
                continue
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

    def as_json(self) -> dict[str, Any]:
        """The tally of a part, for `add`."""
        return {
            "samples": self.samples,
            "captions": self.captions,
            "messages": self.messages,
            "dropped": self.drops.listed(),
            "remarks": self.drops.remarked(),
            "images": {split: found.tolist() for split, found in self.images.items()},
        }

    def add(self, part: dict[str, Any]) -> None:
        """Add the tally of the next part."""
        self.samples.update(part["samples"])
        self.captions += part["captions"]
        self.messages += part["messages"]
        for dropped in part["dropped"]:
            self.drops.add(Dropped(**dropped))
        for remark in part["remarks"]:
            self.drops.add(Remark(**remark))
        for split, found in self.images.items():
            found.extend(part["images"][split])

    def finish(self) -> None:
        """Add what only all samples together show."""
        each = [np.unique(np.frombuffer(found, dtype=np.uint64)) for found in self.images.values() if found]
        _, splits = np.unique(np.concatenate([np.empty(0, np.uint64), *each]), return_counts=True)
        if count := int((splits > 1).sum()):
            self.drops.add(Remark("an image has the same bytes as one of another split, as published", count=count))


def run_job(context: Context, job: int) -> dict[str, Any]:
    """The parts of job `job`, made in the work directory. Complete parts of an interrupted run are kept."""
    parts, jobs = _parts(context), context.stage.jobs
    mine = range(len(parts) * job // jobs, len(parts) * (job + 1) // jobs)
    _make(context, parts, mine)
    return {"parts": len(mine)}


def run(context: Context) -> dict[str, Any]:
    """The counts of the written table. Makes the parts that no job has made, and joins all.

    Raises `DataError` for too many dropped samples, a repeated or invalid key, or an empty training split.
    """
    dataset, allowed, file = context.stage.subject, context.params["max_dropped"], context.output / TABLE
    tally = Tally(dataset)
    if context.stage.jobs:
        _join(context, tally, file)
    else:
        write_table(file, tally.kept(load_source(context.params["source"]).records(context)))
    tally.finish()
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


def _parts(context: Context) -> list[Part]:
    source = load_source(context.params["source"])
    assert isinstance(source, PartedSource), "a source whose settings have record_jobs has parts"
    return source.parts(context)


def _files(context: Context, number: int) -> tuple[Path, Path]:
    """The table and the tally of a part. The table appears last."""
    table = context.work / "parts" / f"{number:06d}.parquet"
    return table, table.with_suffix(".json")


def _make(context: Context, parts: list[Part], numbers: Iterable[int]) -> None:
    """Make the missing ones of these parts in the work directory."""
    for number in numbers:
        file, counted = _files(context, number)
        if file.exists():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        tally, temporary = Tally(context.stage.subject), file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            write_table(temporary, tally.kept(parts[number]()))
            flush_to_disk(temporary)
            write_json(counted, tally.as_json())
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _join(context: Context, tally: Tally, file: Path) -> None:
    parts = _parts(context)
    _make(context, parts, range(len(parts)))
    made = [_files(context, number) for number in range(len(parts))]
    for _, counted in made:
        tally.add(json.loads(counted.read_text(encoding="utf-8")))
    join_tables(file, [table for table, _ in made])


def _say(tally: Tally) -> None:
    """Print the summary on stderr: the counts, the dropped samples by reason, the remarks."""
    by_split = ", ".join(f"{split} {tally.samples[split]:,}" for split in SPLITS)
    first, *others = [f"{tally.samples.total():,} samples ({by_split})", *tally.drops.lines()]
    if tally.drops.dropped:
        first = f"{first}, {others.pop(0)}"
    for line in (first, *others):
        print(f"{tally.dataset}: {line}", file=sys.stderr)
