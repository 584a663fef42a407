"""Protocols of random access to a split: its samples, and the rows that a task arranges them in."""

from typing import Protocol, TypeVar

from glassworks.data.reading.dataset import Sample


class Keyed(Protocol):
    """A row of a data set, named after a sample."""

    @property
    def key(self) -> str:
        """The key of the sample; seeds are derived from it, and errors name it."""
        ...


R_co = TypeVar("R_co", bound=Keyed, covariant=True)


class Rows(Protocol[R_co]):
    """Random access to the rows of one split, shard after shard."""

    @property
    def shard_sizes(self) -> list[int]:
        """Rows in each shard: the input of an `Order`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> R_co: ...


class Samples(Rows[Sample], Protocol):
    """Random access to the samples of one split."""
