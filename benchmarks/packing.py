"""Planning packed rows: a million lengths at 4,096 tokens on one core. Prints seconds and ratios; asserts that both sides give the same rows.

    python benchmarks/packing.py [--quick]

(a) A million texts with log-normal lengths (median 400 tokens, 1 % over a row), one limit. Then pictures and texts, with two limits, 4,096 tokens and
    12 crops. Rows beside the smallest number that the sums allow.
(b) The same algorithm on 50,000 of the texts, beside its plain form: a list of rows for each number of free tokens, scanned upwards for every piece.
    Sides alternate; the median of the ratios of all rounds is printed, with their range.
(c) A plan of (a) on disk, and the time to map it into memory, as every worker does. The memory of the plain form's lists and tuples is its peer.

Seconds are CPU seconds of this process, which has one thread.
"""

import argparse
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from glassworks.data.reading.packing import Plan, pack

ROW = 4096
CROPS = 12
TOKENS_OF_A_CROP = 196
Rows = list[list[tuple[int, int, int]]]


def draw_lengths(count: int) -> np.ndarray:
    """int64 [count, 1]."""
    return np.random.default_rng(0).lognormal(6, 1, (count, 1)).astype(np.int64) + 1


def draw_pictures(count: int) -> np.ndarray:
    """int64 [count, 2]: tokens and crops. Two of five samples are texts."""
    random = np.random.default_rng(1)
    crops = np.where(random.random(count) < 0.6, random.integers(1, 10, count), 0)
    texts = np.minimum(random.lognormal(5.5, 1, count).astype(np.int64) + 1, ROW - CROPS * TOKENS_OF_A_CROP)
    return np.stack([crops * TOKENS_OF_A_CROP + texts, crops], axis=1)


def by_scanning(lengths: np.ndarray, capacity: int) -> Rows:
    """Best fit decreasing in its plain form."""
    pieces = [
        (text, start, min(capacity, length - start))
        for text, length in enumerate(lengths.tolist())
        for start in range(0, length, capacity)
    ]
    rows: Rows = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    for piece in sorted(pieces, key=lambda piece: -piece[2]):
        room = next((room for room in range(piece[2], capacity + 1) if with_room[room]), None)
        if room is None:
            row, room = len(rows), capacity
            rows.append([])
        else:
            row = with_room[room].pop()
        rows[row].append(piece)
        with_room[room - piece[2]].append(row)
    return sorted(sorted(row) for row in rows)


def as_lists(plan: Plan) -> Rows:
    return [[tuple(item) for item in plan.row(row).tolist()] for row in range(len(plan.starts) - 1)]


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def benchmark_a_million(count: int) -> Plan:
    for title, sizes, limits in (
        ("pictures and texts, two limits", draw_pictures(count), {"tokens": ROW, "crops": CROPS}),
        ("texts, one limit", draw_lengths(count), {"tokens": ROW}),
    ):
        start = time.process_time()
        plan = pack(sizes, limits, split=(sizes[:, 1:] == 0).all(axis=1))
        took = time.process_time() - start
        least = max(-(-int(total) // limit) for total, limit in zip(sizes.sum(axis=0), limits.values(), strict=True))
        rows = len(plan.starts) - 1
        print(f"(a) {count:,} {title:31} {took:5.1f} s  goal < 20 s  {rows:,} rows, {rows / least:.3f} of the least")
    return plan


def benchmark_scanning(count: int, rounds: int) -> None:
    lengths, pairs = draw_lengths(count), []
    for number in range(rounds):
        sides = [lambda: pack(lengths, {"tokens": ROW}, split=True), lambda: by_scanning(lengths[:, 0], ROW)]
        order = (0, 1) if number % 2 else (1, 0)
        took = {side: seconds(sides[side]) for side in order}
        pairs.append((took[0], took[1]))
    ratios = sorted(scan / own for own, scan in pairs)
    own, scan = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    spread = f"({ratios[0]:.0f} … {ratios[-1]:.0f}, {rounds} rounds)  {own:.2f} vs {scan:.2f} s"
    print(f"(b) {count:,} texts: by scanning / ours  {statistics.median(ratios):.0f} x  {spread}")
    assert as_lists(pack(lengths, {"tokens": ROW}, split=True)) == by_scanning(lengths[:, 0], ROW)
    print("    parity: the same rows")


def benchmark_loading(plan: Plan, folder: Path) -> None:
    plan.save(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    took = statistics.median(seconds(lambda: Plan.load(folder)) for _ in range(5))
    tracemalloc.start()
    lists = as_lists(plan)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(
        f"(c) {len(plan.items):,} items: {size / 1e6:.0f} MB on disk, mapped in {1000 * took:.1f} ms; {memory / 1e6:.0f} MB as lists"
    )
    loaded = Plan.load(folder)
    assert all(loaded.row(row).tolist() == [list(item) for item in lists[row]] for row in range(0, len(lists), 100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few lengths and one round: a smoke test")
    quick = parser.parse_args().quick
    print(f"rows of {ROW:,} tokens; numpy {np.__version__}")
    plan = benchmark_a_million(10_000 if quick else 1_000_000)
    benchmark_scanning(2_000 if quick else 50_000, 1 if quick else 5)
    with tempfile.TemporaryDirectory() as folder:
        benchmark_loading(plan, Path(folder) / "plan")


if __name__ == "__main__":
    main()
