"""Protocols of a data source, and the way to load one by its name.

A module implements a protocol by its functions.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from glassworks.config import registry
from glassworks.data.records import Dropped, Pictures, Record, Remark
from glassworks.pipeline.execution import Context

Item = Record | Dropped | Remark | Pictures
"""What a source yields."""
Part = Callable[[], Iterator[Item]]
"""A part of the samples of a source. No part depends on another one, and no two parts have a key in common."""


class Source(Protocol):
    """The code of a source: sources/NAME/source.py."""

    def records(self, context: Context, /) -> Iterator[Item]:
        """Every sample, in an order that depends on the raw files alone."""
        ...

    def media(self, context: Context, /) -> Callable[[Record], dict[str, bytes]]:
        """A function from a record to its media by file extension. The raw files are opened once."""
        ...


@runtime_checkable
class TarSource(Protocol):
    """The code of a source whose samples are already in tars."""

    def records(self, context: Context, /) -> Iterator[Item]:
        """Every sample, in an order that depends on the raw files alone."""
        ...

    def ready_made(self, context: Context, /) -> Callable[[str], tuple[Path, str]]:
        """A function from the name of a tar to its path and sha256."""
        ...


@runtime_checkable
class PartedSource(Protocol):
    """The code of a source that can cut its samples into parts, which jobs make in parallel. It has `media` or `ready_made` as well."""

    def records(self, context: Context, /) -> Iterator[Item]:
        """Every sample: `in_order` of the parts."""
        ...

    def parts(self, context: Context, /) -> list[Part]:
        """The parts of the samples in order. Where they are cut depends on the raw files and the parameters alone."""
        ...


def in_order(parts: list[Part]) -> Iterator[Item]:
    """What all parts yield, one after another."""
    return chain.from_iterable(part() for part in parts)


def load_source(name: str) -> Source | TarSource:
    """The code of a source by its name in params.yaml."""
    return cast(Source | TarSource, registry.code("sources", name))
