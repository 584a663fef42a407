"""Protocols of a data source, and the way to load one by its name.

A module implements a protocol by its functions.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from glassworks.config import registry
from glassworks.data.records import Dropped, Record, Remark
from glassworks.pipeline.execution import Context


class Source(Protocol):
    """The code of a source: sources/NAME/source.py."""

    def records(self, context: Context, /) -> Iterator[Record | Dropped | Remark]:
        """Every sample, in an order that depends on the raw files alone."""
        ...

    def media(self, context: Context, /) -> Callable[[Record], dict[str, bytes]]:
        """A function from a record to its media by file extension. The raw files are opened once."""
        ...


@runtime_checkable
class TarSource(Protocol):
    """The code of a source whose samples are already in tars."""

    def records(self, context: Context, /) -> Iterator[Record | Dropped | Remark]:
        """Every sample, in an order that depends on the raw files alone."""
        ...

    def ready_made(self, context: Context, /) -> Callable[[str], tuple[Path, str]]:
        """A function from the name of a tar to its path and sha256."""
        ...


def load_source(name: str) -> Source | TarSource:
    """The code of a source by its name in params.yaml."""
    return cast(Source | TarSource, registry.code("sources", name))
