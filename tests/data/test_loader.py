"""Batches depend on the order and the seed alone, and workers do as they are told."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.images import decode_image
from glassworks.data.reading.loader import micro_batches
from glassworks.data.reading.order import InOrder, Mixture, Order
from glassworks.errors import ArtifactError, DataError, ResourceError

from .small_shards import make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards") / "x", train=42, test=5)


def example(sample, seed):
    """A picture with noise that depends on the seed alone, as an augmentation would."""
    image = decode_image(sample.members["png"], sample.where)
    noise = torch.randint(0, 9, image.shape, generator=torch.Generator().manual_seed(seed))
    return sample.key, seed, image + noise


def collate(examples):
    keys, seeds, images = zip(*examples, strict=True)
    return list(keys), list(seeds), torch.stack(images)


def batches(shards, workers=0, start_step=0, steps=12, order=None, dataset=None, transform=example, **options):
    dataset = dataset or ShardDataset(shards, "train")
    order = order or Order(dataset.shard_sizes, seed=3, window=2)
    sizes = {"batch_size": 8, "micro_batches": 4, "seed": 1, **options}
    return micro_batches(
        dataset,
        order,
        start_step=start_step,
        steps=steps,
        workers=workers,
        transform=transform,
        collate=collate,
        **sizes,
    )


def digests(steps):
    return [
        hashlib.sha256(b"".join(repr(b[:2]).encode() + b[2].numpy().tobytes() for b in step)).digest() for step in steps
    ]


def test_sample_sequence_is_the_same_for_any_number_of_workers(shards):
    expected = digests(batches(shards))
    assert len(set(expected)) == 12  # more than two epochs: the second looks different
    for workers in (1, 2, 4):
        assert digests(batches(shards, workers)) == expected
    assert digests(batches(shards, 1, start_method="spawn", steps=2)) == expected[:2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumes_at_any_step(shards, workers):
    expected = digests(batches(shards))
    for start in (1, 5, 11):
        assert digests(batches(shards, workers, start, 12 - start)) == expected[start:]


def test_every_sample_of_an_epoch_comes_exactly_once_with_a_seed_of_its_own(shards):
    steps = list(batches(shards, steps=21, batch_size=4, micro_batches=2))  # 84 samples, two epochs; step 10 has both
    keys = [key for step in steps for micro_batch in step for key in micro_batch[0]]
    seeds = [seed for step in steps for micro_batch in step for seed in micro_batch[1]]
    assert sorted(keys[:42]) == sorted(keys[42:]) == [f"k{i:03d}" for i in range(42)]
    assert keys[:42] != keys[42:]
    assert len(set(seeds)) == 84
    again = list(batches(shards, steps=21, batch_size=4, micro_batches=2, seed=2))
    assert {s for step in again for b in step for s in b[1]}.isdisjoint(seeds)


def test_the_cut_into_micro_batches_does_not_change_the_samples(shards):
    whole = [step[0][0] for step in batches(shards, micro_batches=1)]
    assert [[key for b in step for key in b[0]] for step in batches(shards, micro_batches=8)] == whole


def test_workers_of_a_run_get_their_parts(shards):
    whole = list(batches(shards))
    parts = [list(batches(shards, part=part)) for part in (range(0, 2), range(2, 4))]
    assert [[b[0] for b in one + two] for one, two in zip(*parts, strict=True)] == [[b[0] for b in s] for s in whole]


def test_a_mixture_reads_all_its_data_sets(shards):
    datasets = [ShardDataset(shards, split) for split in ("train", "test")]
    order = Mixture([Order(datasets[0].shard_sizes, 1, 2), InOrder(len(datasets[1]))], [3, 1], seed=4)
    expected = digests(batches(shards, order=order, dataset=datasets))
    assert digests(batches(shards, 2, order=order, dataset=datasets)) == expected
    keys = {key for step in batches(shards, order=order, dataset=datasets) for b in step for key in b[0]}
    assert keys > {f"k{i:03d}" for i in range(42, 47)}


class Broken:
    """A transform that refuses one sample."""

    def __init__(self, error):
        self.error = error

    def __call__(self, sample, seed):
        if sample.key == "k033":
            raise self.error
        return example(sample, seed)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_arrives_as_it_was_raised_and_in_its_place(shards, workers):
    position = list(Order([7] * 6, 3, 2).indices(0, 42)).index(33)
    steps = batches(shards, workers, transform=Broken(DataError("train-00004.tar: sample 'k033': no good")))
    for _ in range(position // 8):
        next(steps)
    with pytest.raises(DataError) as info:
        next(steps)
    assert str(info.value) == "train-00004.tar: sample 'k033': no good"
    assert not multiprocessing.active_children()


def test_a_fault_of_ours_keeps_its_traceback(shards):
    with pytest.raises(ZeroDivisionError, match="Original Traceback"):
        list(batches(shards, 1, transform=Broken(ZeroDivisionError())))
    assert not multiprocessing.active_children()


def test_a_damaged_shard_is_named_by_a_worker(tmp_path):
    shards = make_shards(tmp_path / "shards", train=16)
    tar = shards / "train-00001.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(
        ArtifactError, match=r"train-00001\.tar: sample 'k0\d\d' cannot be read: the shard was truncated"
    ):
        list(batches(shards, 2, steps=2))


def kill_self(sample, seed):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_one_clear_error(shards):
    with pytest.raises(ResourceError, match=r"a loader worker died .*fewer loader_workers"):
        list(batches(shards, 1, transform=kill_self))


def test_no_worker_outlives_its_iterator(shards):
    steps = batches(shards, 2)
    next(steps)
    assert len(multiprocessing.active_children()) == 2
    steps.close()
    assert not multiprocessing.active_children()
    list(batches(shards, 2, steps=3))
    assert not multiprocessing.active_children()


def test_the_global_generator_is_left_alone(shards):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(batches(shards, 1, steps=1))
    assert torch.equal(torch.rand(3), expected)


SCRIPT = """
import os, signal, sys
from pathlib import Path
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.loader import micro_batches
from glassworks.data.reading.order import Order
def key(sample, seed):
    return sample.key
received = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: received.append(number))
dataset = ShardDataset(Path(sys.argv[1]), "train")
sizes = {"start_step": 0, "steps": 2000, "batch_size": 4, "micro_batches": 1, "workers": 2, "seed": 0}
steps = micro_batches(dataset, Order(dataset.shard_sizes, 0, 1), transform=key, collate=list, **sizes)
next(steps)
if sys.argv[2] == "signals":
    print("ready", flush=True)
    while len(received) < 2:
        signal.pause()
    print(1 + sum(1 for step in steps))
elif sys.argv[2] == "error":
    raise RuntimeError("with the iterator alive")
else:
    next(steps)  # and out, with the workers still waiting for work
"""


def test_workers_leave_signals_to_the_parent(shards):
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(shards), "signals"], stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert run.stdout.readline() == "ready\n"
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(run.pid, number)
        time.sleep(0.1)
    out, _ = run.communicate(timeout=60)
    assert (run.returncode, out) == (0, "2000\n")


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("error", 1)])
def test_a_program_ends_though_its_iterator_is_alive(shards, how, code):
    command = [sys.executable, "-c", SCRIPT, str(shards), how]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == code
    assert ("with the iterator alive" in run.stderr) == (how == "error")


FULL = """
import sys
import torch
from glassworks.data.reading.loader import micro_batches
from glassworks.data.reading.order import Order
from glassworks.errors import ResourceError

class Row:
    key = "k"

class Batch:
    def __init__(self, examples):
        self.images = torch.ones(300_000)

class Rows:
    shard_sizes = [8]
    def __len__(self): return 8
    def __getitem__(self, index): return Row()

found = micro_batches(Rows(), Order([8], seed=3, window=1), start_step=0, steps=2, batch_size=8, micro_batches=4,
                      workers=1, transform=lambda row, seed: row, collate=Batch, seed=1)
try:
    list(found)
except ResourceError as error:
    print(error)
"""


@pytest.mark.parametrize("size", ["16k", "900k"], ids=["semaphores", "batches"])
def test_a_full_dev_shm_is_named(size):
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$0" -c "$1"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, sys.executable, FULL]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if "unshare" in run.stderr or "mount" in run.stderr:
        pytest.skip("needs a mount namespace")
    assert run.stdout.startswith("/dev/shm is full: ") and "loader_workers: 0" in run.stdout, run.stderr
    assert "Traceback" not in run.stderr
