"""The sequence of rows of a run, as a pure function of (seed, mixture, epoch, step).

An order maps a position of the endless stream (epoch * N + i) to a row. Orders are stateless: every position costs the
same, so a run resumes at any step. The hashing (splitmix64) is implemented here, because numpy and torch may change the
streams of their generators between versions.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from glassworks.errors import ConfigError

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the stride of splitmix64
BLOCK = 1000
"""Rows of a mixture in which every rate is exact (to 1/1000)."""


class Pick(NamedTuple):
    """One row of the stream."""

    dataset: int
    """Index of the data set in the mixture."""
    epoch: int
    """Completed passes over that data set."""
    row: int
    """Index of the row in that data set."""


class Picks(Protocol):
    """The stream of a run: an `Order`, an `InOrder` or a `Mixture`."""

    def picks(self, start: int, stop: int) -> list[Pick]:
        """The rows at the positions start … stop - 1 of the stream."""
        ...


def mix(value: int) -> int:
    """splitmix64's finalizer (Steele, Lea & Flood 2014), a bijection of 64-bit numbers with full avalanche."""
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def stream_key(*parts: int) -> int:
    """A 64-bit key from several integers; their order matters."""
    key = 0
    for part in parts:
        key = mix(key + GOLDEN + mix(part + GOLDEN))
    return key


def random_bits(key: int, count: int) -> np.ndarray:
    """uint64 [count]: the splitmix64 stream of a key."""
    value = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(key)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def permutation(key: int, count: int) -> np.ndarray:
    """int64 [count]: a permutation, a function of its arguments alone."""
    return np.argsort(random_bits(key, count), kind="stable")


def sample_seed(seed: int, epoch: int, key: str) -> int:
    """The seed of every draw for one sample (augmentation, choice of caption), non-negative and below 2**63."""
    return stream_key(seed, epoch, _number(key)) >> 1


def named_seed(seed: int, dataset: str) -> int:
    """The seed of the order of one data set of a mixture."""
    return stream_key(seed, _number(dataset))


def _number(name: str) -> int:
    """A 64-bit number from a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


class Order:
    """An endless stream of shuffled epochs over one data set.

    Every epoch contains each row exactly once. Shards are shuffled and grouped into windows of `window` shards. Rows are
    shuffled within a window, so only `window` shards are read at a time. A `window` of at least the number of shards
    shuffles the whole data set.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int, window: int) -> None:
        if not sum(shard_sizes):
            raise ConfigError("a data set without samples has no order")
        if window < 1:
            raise ConfigError(f"shuffle_window {window} must be at least 1")
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.seed, self.window, self.total = seed, window, int(self.starts[-1])
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._window = lru_cache(maxsize=4)(self._plan_window)

    def __len__(self) -> int:
        return self.total

    def at(self, position: int) -> int:
        """The row at a position of the stream."""
        return int(self.indices(position, position + 1)[0])

    def indices(self, start: int, stop: int) -> np.ndarray:
        """int64 [stop - start]: the rows at these positions, at a cost independent of `start`."""
        parts = [np.empty(0, dtype=np.int64)]
        while start < stop:
            epoch, offset = divmod(start, self.total)
            _, ends = self._epoch(epoch)
            number = int(np.searchsorted(ends, offset, side="right"))
            window = self._window(epoch, number)
            begin = offset - (int(ends[number]) - len(window))
            parts.append(window[begin : begin + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def picks(self, start: int, stop: int) -> list[Pick]:
        return [
            Pick(0, position // self.total, int(index))
            for position, index in enumerate(self.indices(start, stop), start)
        ]

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shuffled shards of an epoch, and the position in the epoch where each window ends."""
        shards = permutation(stream_key(self.seed, epoch), len(self.sizes))
        ends = np.cumsum(self.sizes[shards])
        last = np.minimum(np.arange(self.window, len(shards) + self.window, self.window), len(shards)) - 1
        return shards, ends[last]

    def _plan_window(self, epoch: int, number: int) -> np.ndarray:
        """The shuffled rows of one window."""
        shards, _ = self._epoch(epoch)
        chosen = shards[number * self.window : (number + 1) * self.window]
        samples = np.concatenate([np.arange(self.starts[shard], self.starts[shard + 1]) for shard in chosen])
        return samples[permutation(stream_key(self.seed, epoch, number + 1), len(samples))]


class InOrder:
    """An endless stream of unshuffled epochs over one data set, for evaluation."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ConfigError("a data set without samples has no order")
        self.total = total

    def __len__(self) -> int:
        return self.total

    def at(self, position: int) -> int:
        """The row at a position of the stream."""
        return position % self.total

    def indices(self, start: int, stop: int) -> np.ndarray:
        """int64 [stop - start]: the rows at these positions."""
        return np.arange(start, stop, dtype=np.int64) % self.total

    def picks(self, start: int, stop: int) -> list[Pick]:
        return [Pick(0, *divmod(position, self.total)) for position in range(start, stop)]


class Mixture:
    """An endless stream over several data sets at given rates.

    The stream consists of shuffled blocks of 1000 rows. A data set has the same count in every block (rates rounded by
    largest remainder). Each data set advances through its own order, so a small one may be epochs ahead of a large one.
    """

    def __init__(self, orders: Sequence[Order | InOrder], rates: Sequence[float], seed: int) -> None:
        self.orders, self.seed, self.counts = list(orders), seed, block_counts(rates, BLOCK)
        if len(self.orders) != len(self.counts):
            raise ConfigError(
                f"a mixture of {len(self.orders)} data sets has {len(self.counts)} rates; give one for each"
            )
        self._block = lru_cache(maxsize=4)(self._plan_block)

    def at(self, position: int) -> tuple[int, int]:
        """The data set and its row at a position of the stream."""
        dataset, own = self._own_position(position)
        return dataset, self.orders[dataset].at(own)

    def picks(self, start: int, stop: int) -> list[Pick]:
        picks = []
        for position in range(start, stop):
            dataset, own = self._own_position(position)
            order = self.orders[dataset]
            picks.append(Pick(dataset, own // len(order), order.at(own)))
        return picks

    def _own_position(self, position: int) -> tuple[int, int]:
        number, offset = divmod(position, BLOCK)
        datasets, ranks = self._block(number)
        dataset = int(datasets[offset])
        return dataset, number * self.counts[dataset] + int(ranks[offset])

    def _plan_block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 [1000] twice: the data set at each position, and the number of its rows earlier in the block."""
        datasets = np.repeat(np.arange(len(self.counts)), self.counts)[
            permutation(stream_key(self.seed, number), BLOCK)
        ]
        ranks = np.empty(BLOCK, dtype=np.int64)
        for dataset, count in enumerate(self.counts):
            ranks[datasets == dataset] = np.arange(count)
        return datasets, ranks


def block_counts(rates: Sequence[float], total: int) -> list[int]:
    """`total` split in proportion to `rates` by largest remainder; a tie favours the earlier data set."""
    if not rates or any(not 0 < rate < float("inf") for rate in rates):
        raise ConfigError(f"the rates of a mixture must be positive numbers, not {list(rates)}")
    shares = [rate / sum(rates) * total for rate in rates]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(rates)), key=lambda d: (counts[d] - shares[d], d))
    for dataset in by_remainder[: total - sum(counts)]:
        counts[dataset] += 1
    if 0 in counts:
        raise ConfigError(
            f"rate {rates[counts.index(0)]} is less than 1/{total} of the mixture; raise it or leave that data set out"
        )
    return counts
