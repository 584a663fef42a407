"""The data sets of a run: rows with the options of their data set, and the order in which a mixture draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from glassworks.data.reading.order import Mixture, Order, Picks, named_seed
from glassworks.data.reading.rows import Keyed, Rows

R_co = TypeVar("R_co", bound=Keyed, covariant=True)
O_co = TypeVar("O_co", covariant=True)


@dataclass(frozen=True, slots=True)
class PartRow(Generic[R_co, O_co]):
    """A row of one data set of a mixture."""

    key: str
    row: R_co
    options: O_co


@dataclass(frozen=True)
class Part(Generic[R_co, O_co]):
    """One data set of a mixture, as `Rows[PartRow]`."""

    rows: Rows[R_co]
    options: O_co
    """Options of the task for this data set."""
    name: str = ""
    """Name of the data set, if the mixture has several. It is part of the keys, so equal keys of two data sets have different seeds."""

    @property
    def shard_sizes(self) -> list[int]:
        return self.rows.shard_sizes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> PartRow[R_co, O_co]:
        row = self.rows[index]
        return PartRow(f"{self.name}/{row.key}" if self.name else row.key, row, self.options)


def order_of(parts: Sequence[Part[Keyed, object]], rates: Sequence[float], seed: int, window: int) -> Picks:
    """The order of the rows of a run. Each data set of a mixture is shuffled with a seed of its own, derived from its name.

    So neither the other data sets nor the rates change the order of its rows. A single data set is shuffled with `seed` itself.
    """
    if len(parts) == 1:
        return Order(parts[0].shard_sizes, seed, window)
    orders = [Order(part.shard_sizes, named_seed(seed, part.name), window) for part in parts]
    return Mixture(orders, rates, seed)
