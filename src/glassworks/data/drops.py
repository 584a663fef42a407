"""The report of the samples that were dropped, by reason, and of remarks: counted, listed, and said in one line each."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from glassworks.data.records import Dropped, Remark
from glassworks.data.texts import printable

NAMED = 3
"""Places that a message names."""


@dataclass
class Drops:
    """The dropped samples and the remarks of a data set."""

    dropped: list[Dropped] = field(default_factory=list)
    remarks: dict[str, Remark] = field(default_factory=dict)
    """By reason: the first place, and the count of all."""

    def add(self, item: Dropped | Remark) -> None:
        if isinstance(item, Dropped):
            self.dropped.append(Dropped(printable(item.where), printable(item.reason), item.count))
            return
        reason = printable(item.reason)
        first = self.remarks.get(reason)
        self.remarks[reason] = (
            Remark(reason, first.where, first.count + item.count)
            if first
            else Remark(reason, printable(item.where), item.count)
        )

    @property
    def count(self) -> int:
        """Samples that are lost."""
        return sum(item.count for item in self.dropped)

    def reasons(self) -> dict[str, int]:
        """Lost samples by kind of reason, the most frequent first."""
        counted: Counter[str] = Counter()
        for item in self.dropped:
            counted[kind(item.reason)] += item.count
        return dict(sorted(counted.items(), key=lambda entry: (-entry[1], entry[0])))

    def first(self) -> str:
        """The first dropped samples in words, for an error message."""
        named = "; ".join(f"{item.where}: {item.reason}" for item in self.dropped[:NAMED])
        more = sum(item.count for item in self.dropped[NAMED:])
        return f"{named} (and {more} more)" if more else named

    def lines(self) -> Iterator[str]:
        """One line for the dropped samples, by reason, and one for each remark."""
        if self.dropped:
            by_reason = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons().items())
            yield f"{self.count:,} dropped: {by_reason}"
        yield from (remark_line(remark) for remark in self.remarks.values())

    def listed(self) -> list[dict[str, Any]]:
        """The content of dropped.json."""
        return [
            {"where": item.where, "reason": item.reason, **({"count": item.count} if item.count != 1 else {})}
            for item in self.dropped
        ]

    def remarked(self) -> list[dict[str, Any]]:
        """The content of remarks.json."""
        return [
            {"reason": remark.reason, "where": remark.where, "count": remark.count} for remark in self.remarks.values()
        ]


def kind(reason: str) -> str:
    """A reason without its details: what is before the first colon, semicolon or bracket."""
    return re.split(r": |; | \(", reason, maxsplit=1)[0]


def remark_line(remark: Remark) -> str:
    place = f" (first: {remark.where})" if remark.where and remark.count > 1 else f" ({remark.where})"
    return f"{remark.count:,} × {remark.reason}{place if remark.where else ''}"
