"""The sequence of samples is a function of (seed, mixture, position) alone: its properties hold at any position."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassworks.data.reading.mixture import Part, order_of
from glassworks.data.reading.order import (
    BLOCK,
    InOrder,
    Mixture,
    Order,
    Pick,
    block_counts,
    mix,
    permutation,
    sample_seed,
)
from glassworks.errors import ConfigError

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)
SEEDS = st.integers(0, 2**70)


@given(SIZES, SEEDS, st.integers(1, 15), st.integers(0, 10**12))
def test_every_sample_of_an_epoch_comes_exactly_once(sizes, seed, window, epoch):
    order = Order(sizes, seed, window)
    total = len(order)
    assert sorted(order.indices(epoch * total, (epoch + 1) * total)) == list(range(total))


@given(SIZES, SEEDS, st.integers(1, 15), st.integers(0, 300), st.integers(0, 60))
def test_a_stretch_is_the_same_wherever_one_starts_to_look(sizes, seed, window, start, length):
    stretch = Order(sizes, seed, window).indices(start, start + length)
    order = Order(sizes, seed, window)
    assert [order.at(position) for position in reversed(range(start, start + length))] == list(stretch[::-1])
    assert order.picks(start, start + length) == [
        Pick(0, position // len(order), int(index)) for position, index in enumerate(stretch, start)
    ]


@given(SIZES, SEEDS, st.integers(1, 15), st.integers(0, 5))
def test_reads_stay_in_a_window_of_shards(sizes, seed, window, epoch):
    order = Order(sizes, seed, window)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    epoch_of = order.indices(epoch * len(order), (epoch + 1) * len(order))
    shards = [int(shard_of[index]) for index in epoch_of]
    first = {shard: shards.index(shard) for shard in shards}
    last = {shard: len(shards) - 1 - shards[::-1].index(shard) for shard in shards}
    for position in range(len(shards)):
        assert sum(first[shard] <= position <= last[shard] for shard in first) <= window


def test_epochs_seeds_and_windows_give_other_orders():
    def one(seed=1, window=2, epoch=0):
        return list(Order([50] * 8, seed, window).indices(epoch * 400, (epoch + 1) * 400))

    orders = [one(), one(seed=2), one(epoch=1), one(window=8), one(seed=1 + 2**40)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert one() == one()


GOLDEN_PERMUTATION = [1, 5, 0, 4, 3, 2]
GOLDEN_ORDER = [4, 1, 2, 0, 4, 3, 5, 10, 8, 11, 9, 6]
GOLDEN_SEED = 3530668000315388832
GOLDEN_MIXTURE = [
    (0, 82, 2), (1, 149, 2), (0, 83, 0), (1, 149, 3), (1, 149, 4), (1, 150, 0), (0, 83, 1), (1, 150, 1),
]  # fmt: skip


def test_the_order_is_fixed_for_ever():
    """Golden values: whoever changes them changes every training run."""
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first number of splitmix64 with seed 0, as published
    assert list(permutation(7, 6)) == GOLDEN_PERMUTATION
    assert list(Order([3, 4, 5], 11, 2).indices(20, 32)) == GOLDEN_ORDER
    assert sample_seed(1, 2, "key") == GOLDEN_SEED
    assert Mixture([InOrder(3), InOrder(5)], [1, 3], 5).picks(995, 1003) == GOLDEN_MIXTURE


def test_a_shuffle_is_uniform():
    counts = np.zeros((6, 6))
    for seed in range(3000):
        counts[np.arange(6), permutation(seed, 6)] += 1
    chi_squared = ((counts - 500) ** 2 / 500).sum()
    assert chi_squared < 52  # 25 degrees of freedom: 0.1 % lie above


def test_in_order_goes_round_and_round():
    order = InOrder(3)
    assert list(order.indices(1, 8)) == [1, 2, 0, 1, 2, 0, 1]
    assert order.picks(2, 4) == [Pick(0, 0, 2), Pick(0, 1, 0)]
    assert order.at(4) == 1


RATES = st.lists(st.floats(0.01, 100), min_size=1, max_size=5)


@given(RATES, SEEDS, st.integers(0, 10**9))
def test_every_block_of_a_mixture_has_exact_counts(rates, seed, number):
    try:
        counts = block_counts(rates, BLOCK)
    except ConfigError:
        assert min(rates) / sum(rates) < 1 / BLOCK
        return
    assert sum(counts) == BLOCK
    assert all(abs(count - rate / sum(rates) * BLOCK) < 1 for count, rate in zip(counts, rates, strict=True))
    mixture = Mixture([InOrder(10**6)] * len(rates), rates, seed)
    found = Counter(pick.dataset for pick in mixture.picks(number * BLOCK, (number + 1) * BLOCK))
    assert [found[dataset] for dataset in range(len(rates))] == counts


@given(SEEDS, st.integers(0, 3000), st.integers(0, 50))
def test_each_data_set_of_a_mixture_goes_through_its_own_order(seed, start, length):
    mixture = Mixture([Order([4, 3], 1, 1), Order([50], 2, 1)], [1, 2], seed)
    seen = mixture.picks(0, start + length)
    assert mixture.picks(start, start + length) == seen[start:]
    for dataset, order in enumerate(mixture.orders):
        own = [pick for pick in seen if pick.dataset == dataset]
        assert [pick.row for pick in own] == list(order.indices(0, len(own)))
        assert [pick.epoch for pick in own] == [position // len(order) for position in range(len(own))]
    assert [mixture.at(position) for position in range(start, start + length)] == [
        (pick.dataset, pick.row) for pick in seen[start:]
    ]


class Keys:
    """Rows with these keys, in one shard."""

    def __init__(self, keys):
        self.keys, self.shard_sizes = keys, [len(keys)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        return SimpleNamespace(key=self.keys[index])


def parts_of(*names):
    return [Part(Keys([f"k{index}" for index in range(50)]), None, name) for name in names]


def test_a_mixture_at_seven_to_three_has_700_and_300_of_each_1000_rows():
    order = order_of(parts_of("a", "b"), [0.7, 0.3], 5, 4)
    for number in range(3):
        found = Counter(pick.dataset for pick in order.picks(number * BLOCK, (number + 1) * BLOCK))
        assert found == {0: 700, 1: 300}


def test_the_order_of_a_data_set_depends_on_no_other_data_set():
    def rows_of(dataset, names, rates):
        picks = order_of(parts_of(*names), rates, 5, 4).picks(0, 1000)
        return [pick.row for pick in picks if names[pick.dataset] == dataset][:200]

    wanted = rows_of("a", ["a", "b"], [0.7, 0.3])
    assert rows_of("a", ["b", "c", "a"], [0.2, 0.3, 0.5]) == wanted
    assert rows_of("b", ["a", "b"], [0.3, 0.7]) != wanted


def test_one_data_set_alone_keeps_its_order_and_its_keys():
    (part,) = parts_of("")
    assert order_of([part], [1.0], 5, 4).picks(20, 90) == Order([50], 5, 4).picks(20, 90)
    assert part[3].key == "k3"


def test_one_key_in_two_data_sets_has_two_seeds():
    a, b = parts_of("a", "b")
    assert a[3].row.key == b[3].row.key
    assert sample_seed(1, 0, a[3].key) != sample_seed(1, 0, b[3].key)


@pytest.mark.parametrize("rates", [[], [1, 0], [1, -1], [float("nan")], [1, float("inf")], [1, 10_000]])
def test_rates_that_make_no_mixture_are_refused(rates):
    with pytest.raises(ConfigError):
        block_counts(rates, BLOCK)


def test_an_order_of_nothing_is_refused():
    for make in (lambda: Order([], 0, 1), lambda: Order([0, 0], 0, 1), lambda: InOrder(0), lambda: Order([1], 0, 0)):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ConfigError, match="2 data sets has 1 rates"):
        Mixture([InOrder(1), InOrder(1)], [1], 0)


def test_defect_003_5_3_no_sample_of_an_incomplete_last_batch_is_lost():
    """The handbook drops the gradients of an accumulation that an epoch does not fill; here the next epoch fills it."""
    order, batch = Order([7, 3], seed=0, window=2), 4
    steps = [[pick.row for pick in order.picks(step * batch, (step + 1) * batch)] for step in range(5)]
    stream = [index for step in steps for index in step]
    assert sorted(stream[:10]) == sorted(stream[10:20]) == list(range(10))
    assert all(len(step) == batch for step in steps)
