"""The training engine beside a bare PyTorch loop of the same model and data. Prints ratios; asserts that both sides learn the same.

    python benchmarks/training.py [--quick] [--part a] [--part b] …

(a) One worker: samples/s of `Trainer.step` on batches held in memory, and of the whole loop `fit`, which also reads its
    data and writes metrics.jsonl; in fp32 and in bf16. The peer is what one writes by hand: a forward pass of each
    micro-batch, loss sum / tokens, backward into .grad, clip_grad_norm_, fused AdamW with the same groups and schedule.
    It reads through our loader too, and runs without deterministic algorithms; ours runs with them.
(b) Two workers: step time of `reduction: exact` beside that of `reduction: ddp`, and of both beside a bare loop around
    DistributedDataParallel, which accumulates under no_sync. Two models: the default one, and one of 24 million
    parameters with few samples, where the exchange of gradients counts.
(c) Peak memory of each side (resident; allocated, on a GPU), each in a fresh process. For the exact reduction also how
    many buffers of the size of the gradient 8 micro-batches take: the growth of the peak beyond weights, moments and
    one forward pass, divided by that size. The activations' gradients are in it; freed tensors, which glibc likes to
    keep, are not (MALLOC_MMAP_THRESHOLD_).
(d) Start-up: seconds from the start of `glassworks train` to the end of its first step, with two workers, in a
    copy of the project folder that shares its data. Checkpoints at every step tell when the first one is over.

The model, its batches and their cut are those of experiments/caption_scenes.yaml; where its shards and its tokenizer are
missing, random batches of the same shapes stand in, and (d) is left out. Every process has one thread. Sides take turns
step by step, and who begins alternates; the ratio of a round is that of the sums over its steps. The median of all rounds
is printed, with their range, and the same by CPU time, which other work on the machine disturbs less. A first round, which
fills caches, is not counted; after it both sides must have the same losses and weights, up to rounding.

Where there is a CUDA device, (a) and (c) are repeated on it, and (b) where there are two (with NCCL and as many workers as
devices).
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import yaml
from torch.nn.parallel import DistributedDataParallel

from glassworks.config.base import read_yaml
from glassworks.config.experiment import Experiment
from glassworks.config.project import parse_experiment
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.loader import micro_batches
from glassworks.data.reading.order import Order
from glassworks.data.reading.text import TextTokenizer
from glassworks.models.losses import IGNORED
from glassworks.runtime.signals import StopRequest
from glassworks.tasks.captioning.task import Batch, CaptioningTask
from glassworks.training.loop import METRICS, Run, fit, make_trainer
from glassworks.training.metrics_log import read_metrics
from glassworks.training.objective import to_device
from glassworks.training.schedules import learning_rate
from glassworks.training.step import seed_generators
from glassworks.training.workers import PeerLost, Workers, joined

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = Path("experiments/caption_scenes.yaml")
SHARDS, TOKENIZER = ROOT / "data/shards/scenes", ROOT / "data/tokenizers/caption_scenes"
LARGE = {
    "encoder": {
        "image_size": 72,
        "patch_size": 12,
        "stem": "convolutional",
        "width": 512,
        "depth": 3,
        "heads": 8,
    },
    "decoder": {"width": 512, "depth": 3, "heads": 8, "max_tokens": 48},
}
"""A captioner of 24 million parameters."""
Settings = dict[str, Any]
"""Arguments of `make_experiment`. Workers get them instead of the experiment, whose class is composed at run time."""


def make_experiment(large: bool = False, **training: Any) -> Experiment:
    """The default experiment with other training settings, or with the larger model."""
    settings = read_yaml(ROOT / EXPERIMENT)
    settings["training"] |= training
    optimization = settings["optimization"]
    optimization["warmup_steps"] = min(optimization["warmup_steps"], settings["training"]["steps"])
    if large:
        settings["model"] = LARGE
    return parse_experiment(settings, EXPERIMENT)


def data_is_there() -> bool:
    return (SHARDS / "shards.json").is_file() and (TOKENIZER / "tokenizer.json").is_file()


class Vocabulary:
    """What a task asks of a tokenizer when nothing is tokenized."""

    size, pad = 512, 0


def make_task(experiment: Experiment) -> CaptioningTask:
    return CaptioningTask(experiment.model, TextTokenizer(TOKENIZER) if data_is_there() else Vocabulary())  # type: ignore[arg-type]


def read_batches(experiment: Experiment, task: CaptioningTask, part: range) -> Iterator[list[Batch]]:
    """For each step the micro-batches `part` of its batch: read from shards, or drawn when there are none."""
    training = experiment.training
    if not data_is_there():
        return draw_batches(experiment, part)
    dataset = ShardDataset(SHARDS, "train")
    return micro_batches(
        dataset,
        Order(dataset.shard_sizes, 0, training.shuffle_window),
        start_step=0,
        steps=training.steps,
        batch_size=training.batch_size,
        micro_batches=training.micro_batches,
        workers=0,
        transform=lambda row, seed: task.example(row, experiment.data.options, seed),
        collate=task.collate,
        seed=0,
        part=part,
    )


def draw_batches(experiment: Experiment, part: range) -> Iterator[list[Batch]]:
    """Noise in the shapes of real batches: captions of 8 to 30 tokens."""
    training, size = experiment.training, experiment.model.vision.image_size
    samples = training.batch_size // training.micro_batches
    for step in count():
        batches = []
        for number in part:
            random = torch.Generator().manual_seed(step * training.micro_batches + number)
            images = torch.randint(256, (samples, 3, size, size), dtype=torch.uint8, generator=random)
            lengths = torch.randint(8, 31, (samples, 1), generator=random)
            ids = torch.randint(Vocabulary.size, (samples, int(lengths.max()) + 1), generator=random)
            targets = ids[:, 1:].masked_fill(torch.arange(ids.shape[1] - 1) >= lengths, IGNORED)
            batches.append(Batch([f"{step}-{number}-{row}" for row in range(samples)], images, ids[:, :-1], targets))
        yield batches


class Engine:
    """Our side."""

    deterministic = True

    def __init__(self, experiment: Experiment, task: CaptioningTask, workers: Workers) -> None:
        self.trainer = make_trainer(make_run(experiment, task, Path()), workers)
        self.model, self.stop = self.trainer.model, StopRequest()

    def step(self, batches: Sequence[Batch], step: int) -> float:
        return self.trainer.step(batches, step, self.stop.counts).loss


class BareLoop:
    """The peer: plain PyTorch, around DistributedDataParallel where there are several workers."""

    deterministic = False

    def __init__(self, experiment: Experiment, task: CaptioningTask, workers: Workers) -> None:
        self.task, self.workers = task, workers
        self.config, self.training = experiment.optimization, experiment.training
        seed_generators(0, "initial weights")
        self.module: Any = task.build().to(workers.device)
        self.model = self.module
        decayed = [p for name, p in self.model.named_parameters() if p.ndim >= 2 and "position" not in name]
        plain = [p for name, p in self.model.named_parameters() if p.ndim < 2 or "position" in name]
        groups = [{"params": decayed, "weight_decay": self.config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=self.config.learning_rate, betas=self.config.betas, eps=self.config.eps, fused=True
        )
        if workers.size > 1:
            devices = [workers.device] if workers.device.type == "cuda" else None
            self.module = DistributedDataParallel(self.model, device_ids=devices)
        self.model.train()

    def step(self, batches: Sequence[Batch], step: int) -> float:
        """One step; the loss is that of this worker's samples."""
        size, device = self.workers.size, self.workers.device
        own = tokens = sum(int((batch.targets != IGNORED).sum()) for batch in batches)
        if size > 1:
            everywhere = torch.tensor(own, device=device)
            dist.all_reduce(everywhere)
            tokens = int(everywhere)
        total = torch.zeros((), device=device)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last or size == 1 else self.module.no_sync():
                with torch.autocast(device.type, torch.bfloat16, enabled=self.training.precision == "bf16"):
                    loss = self.task.loss(self.module, to_device(batch, device)).total
                (loss * (size / tokens)).backward()  # DDP takes the mean over workers
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step, self.training.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total.item() / own


Side = Engine | BareLoop


def make_run(experiment: Experiment, task: CaptioningTask, folder: Path, batches: Any = None) -> Run:
    """A run without validation, and without digests and checkpoints but after the last step."""
    return Run(
        name="benchmark",
        folder=folder,
        task=task,
        batches=batches,
        held_out=None,
        seed=0,
        optimization=experiment.optimization,
        training=experiment.training.model_copy(update={"digest_every": 10**9}),
        execution=experiment.execution.model_copy(update={"checkpoint_every": 10**9}),
    )


class Cost(NamedTuple):
    """Seconds of one side."""

    wall: float
    cpu: float
    """Of this process."""


Costs = dict[str, list[Cost]]
"""For each side what each step cost."""


def read_clocks(device: torch.device) -> Cost:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Cost(time.perf_counter(), time.process_time())


def elapsed(since: Cost, device: torch.device) -> Cost:
    now = read_clocks(device)
    return Cost(now.wall - since.wall, now.cpu - since.cpu)


def set_determinism(wanted: bool) -> None:
    """As `fit` does when it begins."""
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False


def step_timed(side: Side, batches: Sequence[Batch], step: int, workers: Workers) -> tuple[float, Cost]:
    """Loss and cost of one step, from a moment at which all workers are there."""
    set_determinism(side.deterministic)
    workers.barrier()
    start = read_clocks(workers.device)
    loss = side.step(batches, step)
    return loss, elapsed(start, workers.device)


class Rounds(NamedTuple):
    """What several sides cost, and how far they learned the same in the round that is not counted."""

    costs: Costs
    losses: float
    """Largest difference of a loss."""
    weights: float
    """Largest difference of a weight."""
    parameters: int


def take_turns(workers: Workers, settings: dict[str, Settings], rounds: int, steps: int) -> Rounds:
    """Let the sides train, taking turns at every step; the one called bare is the peer. One more round is not counted."""
    experiments = {name: make_experiment(**own) for name, own in settings.items()}
    names, common = list(experiments), next(iter(experiments.values()))
    task = make_task(common)
    held = list(islice(read_batches(common, task, workers.part(common.training.micro_batches)), 16))
    sides = {name: side_of(name)(experiment, task, workers) for name, experiment in experiments.items()}
    costs: Costs = {name: [] for name in sides}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    for step in range((rounds + 1) * steps):
        if step == steps:
            apart = differences(sides, losses, common.training.precision, workers)
        for name in names[step % len(names) :] + names[: step % len(names)]:
            loss, cost = step_timed(sides[name], held[step % len(held)], step, workers)
            losses[name].append(loss)
            costs[name].append(cost)
    parameters = sum(parameter.numel() for parameter in sides[names[0]].model.parameters())
    return Rounds({name: of_steps[steps:] for name, of_steps in costs.items()}, *apart, parameters)


def tolerance(precision: str, device: torch.device) -> float:
    """How far losses may part, both sides rounding differently."""
    if precision == "bf16":
        return 2e-2
    return 1e-4 if device.type == "cpu" else 1e-3


def side_of(name: str) -> type[Engine] | type[BareLoop]:
    return BareLoop if name == "bare" else Engine


def differences(
    sides: dict[str, Side], losses: dict[str, list[float]], precision: str, workers: Workers
) -> tuple[float, float]:
    """Compare every side with the first; the largest difference of a loss and of a weight.

    With several workers the losses stay away: bare loops do not add theirs up.
    """
    first, *others = sides
    loss = weight = 0.0
    for other in others:
        if workers.size == 1:
            loss = max(loss, *(abs(a - b) for a, b in zip(losses[first], losses[other], strict=True)))
        ours, theirs = (sides[name].model.state_dict() for name in (first, other))
        assert ours.keys() == theirs.keys()
        weight = max(weight, *(float((ours[name] - theirs[name]).abs().max()) for name in ours))
        if precision == "fp32":
            nearly = 1e-4 if workers.device.type == "cpu" else 2e-3  # cuDNN's convolutions are TF32
            for name in ours:
                torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=nearly)
    assert loss < tolerance(precision, workers.device), f"losses part by {loss}"
    return loss, weight


def fit_beside(workers: Workers, experiment: Experiment, folder: Path) -> tuple[Costs, float]:
    """Run `fit`; whenever it asks for a batch, a bare loop takes the same step, its batch read by a loader of its own.

    Ours is charged from there to its next request: reading, the step, the row in the log, progress; the last step, after
    which there is none, is not counted. Returns also the largest difference of a loss.
    """
    task = make_task(experiment)
    costs: Costs = {"exact": [], "bare": []}
    losses: list[float] = []

    def batches(first: int, part: range) -> Iterator[list[Batch]]:
        ours, theirs = (read_batches(experiment, task, part) for _ in range(2))
        bare = BareLoop(experiment, task, workers)
        start = None
        for step in range(experiment.training.steps):
            if start:
                costs["exact"].append(elapsed(start, workers.device))
            set_determinism(False)
            start = read_clocks(workers.device)
            losses.append(bare.step(next(theirs), step))
            costs["bare"].append(elapsed(start, workers.device))
            set_determinism(True)
            start = read_clocks(workers.device)
            yield next(ours)

    with contextlib.redirect_stderr(io.StringIO()):  # progress goes there
        fit(make_run(experiment, task, folder, batches), workers, StopRequest())
    found = [row["loss"] for row in read_metrics(folder / METRICS)]
    apart = max(abs(a - b) for a, b in zip(found, losses, strict=True))
    assert apart < tolerance(experiment.training.precision, workers.device), f"losses part by {apart}"
    return costs, apart


def in_workers(function: Callable[..., Any], *arguments: Any, size: int, device: str) -> Any:
    """What `function(workers, *arguments)` returns in the first of `size` fresh processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with ProcessPoolExecutor(size, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(be_worker, rank, size, port, device, function, arguments) for rank in range(size)]
        errors = sorted(filter(None, [f.exception() for f in futures]), key=lambda error: isinstance(error, PeerLost))
        if errors:
            raise errors[0]
        return futures[0].result()


def be_worker(
    rank: int, size: int, port: int, device: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    torch.set_num_threads(1)
    if size == 1:
        return function(Workers(device=torch.device(device)), *arguments)
    os.environ.update(RANK=f"{rank}", LOCAL_RANK=f"{rank}", WORLD_SIZE=f"{size}")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=f"{port}", GLASSWORKS_DEVICE=device)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with joined() as workers:
        return function(workers, *arguments)


def peak_bytes(device: torch.device) -> int:
    """Of the device, or of this process since it began: what it had as a copy of its parent does not count."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def train_and_see(workers: Workers, name: str, settings: Settings, steps: int) -> int:
    """Peak memory of a process that trains."""
    experiment = make_experiment(**settings)
    task = make_task(experiment)
    part = workers.part(experiment.training.micro_batches)
    side = side_of(name)(experiment, task, workers)
    set_determinism(side.deterministic)
    for step, batches in enumerate(islice(read_batches(experiment, task, part), steps)):
        side.step(batches, step)
    return peak_bytes(workers.device)


def rest_and_see(workers: Workers, settings: Settings) -> tuple[int, int]:
    """Peak memory of a process that has weights, moments and the activations of a micro-batch, but no gradient; and the size of a gradient."""
    experiment = make_experiment(**settings)
    task = make_task(experiment)
    side = Engine(experiment, task, workers)
    moments = [torch.ones_like(parameter) for parameter in side.model.parameters() for _ in range(2)]
    batches = next(read_batches(experiment, task, workers.part(experiment.training.micro_batches)))
    loss = task.loss(side.model, to_device(batches[0], workers.device))
    assert loss.total.requires_grad
    return peak_bytes(workers.device), sum(moment.nbytes for moment in moments) // 2


def wait_for_first_step() -> float:
    """Seconds from starting `glassworks train` to a row in its metrics.jsonl; the run is then killed."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(ROOT / "experiments", root / "experiments")
        settings = read_yaml(ROOT / EXPERIMENT)
        settings.setdefault("execution", {})["checkpoint_every"] = 1  # before a checkpoint, logs are written out
        (root / EXPERIMENT).write_text(yaml.safe_dump(settings))
        shutil.copy(ROOT / "params.yaml", root)
        for name in ("data", "src"):
            (root / name).symlink_to(ROOT / name)
        command = [Path(sys.executable).with_name("glassworks"), "train", EXPERIMENT.stem, "--threads", "2"]
        start = time.perf_counter()
        run = subprocess.Popen(
            command, cwd=root, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            while not any(path.stat().st_size for path in root.glob(f".work/train-*/{METRICS}")):
                if run.poll() is not None:
                    raise RuntimeError(f"glassworks train ended before its first step: {run.stderr.read().decode()}")
                time.sleep(0.005)
            return time.perf_counter() - start
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.communicate()


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    rounds: int
    steps: int
    """Of a round."""
    starts: int
    """Of the command."""
    models: Sequence[bool]
    """For which models peak memory is measured: the default one (False), the larger one (True)."""


QUICK = Extent(rounds=2, steps=3, starts=1, models=(True,))
FULL = Extent(rounds=5, steps=20, starts=6, models=(False, True))


def sums_of_rounds(costs: list[Cost], extent: Extent) -> list[Cost]:
    parts = [costs[start : start + extent.steps] for start in range(0, len(costs), extent.steps)]
    return [Cost(*map(sum, zip(*part, strict=True))) for part in parts]


def report_ratio(title: str, above: list[Cost], below: list[Cost], goal: str, sides: str) -> None:
    """Print the median of the ratios above / below by the clock, with their range, and by CPU time."""
    ratios = sorted(a.wall / b.wall for a, b in zip(above, below, strict=True))
    cpu = statistics.median(a.cpu / b.cpu for a, b in zip(above, below, strict=True))
    spread = f"({ratios[0]:.2f} … {ratios[-1]:.2f}, {len(ratios)} rounds; by CPU time {cpu:.2f} x)"
    report(title, f"{statistics.median(ratios):5.2f} x", goal, f"{spread}  {sides}")


def plural(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def report(title: str, figure: str, goal: str, more: str = "") -> None:
    print(f"{title:63} {figure:>8}  goal {goal:7} {more}".rstrip(), flush=True)


def report_speed(title: str, costs: Costs, batch_size: int, extent: Extent) -> None:
    ours, bare = (sums_of_rounds(costs[name], extent) for name in ("exact", "bare"))
    own, peer = (extent.steps * batch_size / statistics.median(cost.wall for cost in side) for side in (ours, bare))
    report_ratio(title, bare, ours, ">= 0.97", f"{own:,.0f} vs {peer:,.0f} samples/s")


def benchmark_one_worker(device: str, extent: Extent) -> None:
    workers = Workers(device=torch.device(device))
    for precision in ("fp32", "bf16"):
        settings: Settings = {"precision": precision}
        size = make_experiment(**settings).training.batch_size
        found = take_turns(workers, {"exact": settings, "bare": settings}, extent.rounds, extent.steps)
        report_speed(f"(a) one worker, {precision}: Trainer.step / bare loop", found.costs, size, extent)
        steps = (extent.rounds + 1) * extent.steps
        with tempfile.TemporaryDirectory() as folder:
            costs, apart = fit_beside(workers, make_experiment(precision=precision, steps=steps + 1), Path(folder))
        costs = {name: of_steps[extent.steps : steps] for name, of_steps in costs.items()}
        report_speed("    fit with loader and logs / bare loop with loader", costs, size, extent)
        print(
            f"    parity: {extent.steps} steps from the same weights: losses within {found.losses:.0e}, weights within "
            f"{found.weights:.0e}; fit: {steps} steps, losses within {apart:.0e}",
            flush=True,
        )


def benchmark_reductions(device: str, size: int, extent: Extent) -> None:
    cut = max(2, size)
    for large, training in ((False, {"micro_batches": cut}), (True, {"batch_size": 2 * cut, "micro_batches": 2 * cut})):
        experiments = {
            "exact": {"large": large, **training},
            "ddp": {"large": large, **training, "reduction": "ddp"},
            "bare": {"large": large, **training},
        }
        found: Rounds = in_workers(take_turns, experiments, extent.rounds, extent.steps, size=size, device=device)
        rounds = {name: sums_of_rounds(costs, extent) for name, costs in found.costs.items()}
        ms = {name: 1e3 * statistics.median(c.wall for c in costs) / extent.steps for name, costs in rounds.items()}
        title = f"(b) {size} workers, {found.parameters / 1e6:.1f} M parameters: exact / ddp"
        report_ratio(title, rounds["exact"], rounds["ddp"], "<= 1.10", f"{ms['exact']:.1f} vs {ms['ddp']:.1f} ms")
        for name, goal in (("exact", "<= 1.10"), ("ddp", "-")):
            sides = f"{ms[name]:.1f} vs {ms['bare']:.1f} ms"
            report_ratio(f"    {name} / bare DistributedDataParallel loop", rounds[name], rounds["bare"], goal, sides)
        print(f"    parity: {extent.steps} steps from the same weights: weights within {found.weights:.0e}", flush=True)


def benchmark_memory(device: str, size: int, extent: Extent) -> None:
    kind = "allocated" if device == "cuda" else "resident"
    cut = max(2, size)
    for large in extent.models:
        training = {"batch_size": 2 * cut, "micro_batches": 2 * cut} if large else {"micro_batches": cut}
        sides = {
            "exact": {"large": large, **training},
            "ddp": {"large": large, **training, "reduction": "ddp"},
            "bare": {"large": large, **training},
        }
        for workers in sorted({1, size}):
            peaks = {
                name: in_workers(train_and_see, name, settings, extent.steps, size=workers, device=device)
                for name, settings in sides.items()
                if workers > 1 or name != "ddp"
            }
            title = (
                f"(c) peak memory, {'larger' if large else 'default'} model, {plural(workers, 'worker')}: exact / bare"
            )
            words = ", ".join(f"{name} {peak / 1e6:,.0f}" for name, peak in peaks.items())
            report(title, f"{peaks['exact'] / peaks['bare']:5.2f} x", "-", f"{words} MB {kind}")
    settings: Settings = {"large": True, "batch_size": 8, "micro_batches": 8}
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"  # for glibc in the processes to come
    rest, gradient = in_workers(rest_and_see, settings, size=1, device=device)
    for workers in sorted({1, min(size, 8)}):
        peak = in_workers(train_and_see, "exact", settings, extent.steps, size=workers, device=device)
        title = f"    buffers of a gradient, 8 micro-batches, {plural(workers, 'worker')}"
        sides = f"{gradient / 1e6:.0f} MB each; without any {rest / 1e6:,.0f}, training {peak / 1e6:,.0f} MB {kind}"
        report(title, f"{(peak - rest) / gradient:5.2f}  ", "<= 5", sides)
    del os.environ["MALLOC_MMAP_THRESHOLD_"]


def benchmark_start_up(extent: Extent) -> None:
    if not data_is_there():
        print(f"(d) start-up: left out, for {SHARDS} or {TOKENIZER} is missing")
        return
    seconds = [wait_for_first_step() for _ in range(extent.starts)]
    seconds = sorted(seconds[1:] or seconds)  # the first fills caches
    title = "(d) `glassworks train --threads 2` to the end of its first step"
    spread = f"({seconds[0]:.2f} … {seconds[-1]:.2f}, {plural(len(seconds), 'start')})"
    report(title, f"{statistics.median(seconds):5.2f} s", "< 6 s", spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps and rounds: a smoke test")
    parser.add_argument("--part", action="append", choices="abcd", help="only this part; may be given again")
    arguments = parser.parse_args()
    parts = arguments.part or "abcd"
    extent = QUICK if arguments.quick else FULL
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms ask for it
    torch.set_num_threads(1)
    data = "shards of scenes" if data_is_there() else "random batches"
    devices = torch.cuda.device_count()
    for device in ("cpu", "cuda") if devices else ("cpu",):
        name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {os.cpu_count()} cores"
        training = make_experiment().training
        print(
            f"{name}; {data}, batches of {training.batch_size} in {training.micro_batches} micro-batches; "
            f"one thread; torch {torch.__version__}"
        )
        size = 2 if device == "cpu" else 1 << (min(devices, 16).bit_length() - 1)
        if "a" in parts:
            benchmark_one_worker(device, extent)
        if "b" in parts and size > 1:
            benchmark_reductions(device, size, extent)
        if "c" in parts:
            benchmark_memory(device, size, extent)
        if "d" in parts and device == "cpu":
            benchmark_start_up(extent)


if __name__ == "__main__":
    main()
