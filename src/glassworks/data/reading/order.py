"""The sequence of samples of a run, as a pure function of (seed, mixture, epoch, step).

An order maps a position of the endless stream (epoch * N + i) to a sample. Nothing here has a history: any position is
found at the same small cost, so a run resumes anywhere. The hashing is our own (splitmix64), because numpy and torch
may change the streams of their generators between versions.
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
"""Samples of a mixture among which every rate is kept exactly (to 1/1000)."""


class Pick(NamedTuple):
    """One sample of the stream."""

    dataset: int
    """Which data set of the mixture."""
    epoch: int
    """How often that data set was gone through before."""
    index: int
    """Which of its samples."""


class Sequence64(Protocol):
    """What `Order`, `InOrder` and `Mixture` have in common."""

    def picks(self, start: int, stop: int) -> list[Pick]:
        """The samples at the positions start … stop - 1 of the stream."""
        ...


def mix(value: int) -> int:
    """splitmix64's finalizer (Steele, Lea & Flood 2014): one 64-bit number to another, every input bit reaching every
    output bit.
    """
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def stream_key(*parts: int) -> int:
    """A 64-bit key from several integers; their order counts."""
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
    """int64 [count]: a permutation that depends on nothing but its arguments."""
    return np.argsort(random_bits(key, count), kind="stable")


def sample_seed(seed: int, epoch: int, key: str) -> int:
    """The seed of everything drawn for one sample (augmentation, choice of caption); non-negative and below 2**63."""
    name = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    return stream_key(seed, epoch, name) >> 1


class Order:
    """Shuffled epochs without end over one data set.

    In every epoch each sample comes exactly once. The shards are shuffled and taken in windows of `window`; the samples
    are shuffled within a window, so that only `window` shards are read at a time. `window` at least the number of
    shards shuffles everything.
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
        """The sample at a position of the stream."""
        return int(self.indices(position, position + 1)[0])

    def indices(self, start: int, stop: int) -> np.ndarray:
        """int64 [stop - start]: the samples at these positions; the cost does not depend on where they are."""
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
        """The shards of an epoch in order, and the position in the epoch where each window ends."""
        shards = permutation(stream_key(self.seed, epoch), len(self.sizes))
        ends = np.cumsum(self.sizes[shards])
        last = np.minimum(np.arange(self.window, len(shards) + self.window, self.window), len(shards)) - 1
        return shards, ends[last]

    def _plan_window(self, epoch: int, number: int) -> np.ndarray:
        """The samples of one window in order."""
        shards, _ = self._epoch(epoch)
        chosen = shards[number * self.window : (number + 1) * self.window]
        samples = np.concatenate([np.arange(self.starts[shard], self.starts[shard + 1]) for shard in chosen])
        return samples[permutation(stream_key(self.seed, epoch, number + 1), len(samples))]


class InOrder:
    """The samples as they lie in the shards, again and again: for evaluation."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ConfigError("a data set without samples has no order")
        self.total = total

    def __len__(self) -> int:
        return self.total

    def at(self, position: int) -> int:
        """The sample at a position of the stream."""
        return position % self.total

    def indices(self, start: int, stop: int) -> np.ndarray:
        """int64 [stop - start]: the samples at these positions."""
        return np.arange(start, stop, dtype=np.int64) % self.total

    def picks(self, start: int, stop: int) -> list[Pick]:
        return [Pick(0, *divmod(position, self.total)) for position in range(start, stop)]


class Mixture:
    """Several data sets at given rates.

    The stream is made of blocks of 1000 samples; in each block every data set has exactly the same count (rates rounded
    by largest remainder), and the block is shuffled. Data set d goes through its own order at its own pace, so a small
    one begins its next epoch while a large one is in its first.
    """

    def __init__(self, orders: Sequence[Order | InOrder], rates: Sequence[float], seed: int) -> None:
        self.orders, self.seed, self.counts = list(orders), seed, block_counts(rates, BLOCK)
        if len(self.orders) != len(self.counts):
            raise ConfigError(
                f"a mixture of {len(self.orders)} data sets has {len(self.counts)} rates; give one for each"
            )
        self._block = lru_cache(maxsize=4)(self._plan_block)

    def at(self, position: int) -> tuple[int, int]:
        """The data set and the sample of it at a position of the stream."""
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
        """int64 [1000] twice: the data set of each place, and how many of its samples come before it in the block."""
        datasets = np.repeat(np.arange(len(self.counts)), self.counts)[
            permutation(stream_key(self.seed, number), BLOCK)
        ]
        ranks = np.empty(BLOCK, dtype=np.int64)
        for dataset, count in enumerate(self.counts):
            ranks[datasets == dataset] = np.arange(count)
        return datasets, ranks


def block_counts(rates: Sequence[float], total: int) -> list[int]:
    """`total` divided in proportion to `rates` by largest remainder; on a tie the earlier data set gets more."""
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
