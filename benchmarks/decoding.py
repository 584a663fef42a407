"""Decoding with a KV cache beside transformers' `generate`, with the same weights. Prints ratios; asserts that both sides write the same tokens.

    python benchmarks/decoding.py [--quick] [--plot] [--smollm2 DIR]

(a) A GPT of 6 layers, 256 wide, with the vocabulary of experiments/lm_kjv.yaml; random weights, made larger so that texts
    vary. A prompt of 8 tokens, 128 new ones, greedy, float32: tokens/s of ours and of transformers, one text at a time and
    eight; ours with eight texts beside ours with one. Then the cost of a token over the length of its text, up to 1,024
    tokens; --plot draws it to docs/figures/decoding.png.
(b) SmolLM2-135M with its real weights, where they are there: the same ratio, and for both sides the share of the memory
    bandwidth: bytes of all weights, and of the keys and values so far, that a token must read, divided by its time and by
    what one thread of this machine reads from memory (the best of many sums over a large array).

One thread. Sides take turns, and who begins alternates; the median of the ratios of all rounds is printed, with their range,
and the same by CPU time, which other work on the machine disturbs less. A first round, which fills caches, is not counted.
Times are those of a whole call, from token ids to token ids: prefill is in them, and whatever a side prepares.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import torch

from glassworks.generation.cpu_step import small_batch_linear
from glassworks.generation.decoding import generate, stream
from glassworks.generation.settings import Decoding
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.language_models import export_language_model, load_language_model
from glassworks.models.settings.text_decoder import TextDecoder

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "docs/figures/decoding.png"
SMALL = TextDecoder(width=256, depth=6, heads=8, max_tokens=1024, feed_forward="gelu_tanh")
VOCABULARY = 2048
PROMPT, NEW = 8, 128


class Cost(NamedTuple):
    """Seconds of a call."""

    wall: float
    cpu: float


class Sides:
    """One model twice: ours, and transformers'."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = load_language_model(directory).eval()
        self.peer = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.peer.generation_config.eos_token_id = None
        self.peer.generation_config.pad_token_id = 0

    def ours(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        return generate(self.model, prompts, Decoding(max_new_tokens=new), None)

    def theirs(self, prompts: list[list[int]], new: int, streamer: Any = None) -> list[list[int]]:
        ids = torch.tensor(prompts)
        found = self.peer.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, streamer=streamer
        )
        return found[:, ids.shape[1] :].tolist()


class Clock:
    """A streamer of transformers that keeps the times of its tokens."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def small_sides(folder: Path) -> Sides:
    torch.manual_seed(0)
    model = LanguageModel(SMALL, VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    export_language_model(model, folder)
    return Sides(folder)


def draw_prompts(rows: int, vocabulary: int) -> list[list[int]]:
    return torch.randint(vocabulary, (rows, PROMPT), generator=torch.Generator().manual_seed(rows)).tolist()


def cost_of(call: Callable[[], Any]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def take_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Cost]]:
    """The costs of every side, round by round; the first round is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in sorted(sides, reverse=bool(number % 2)):
            cost = cost_of(sides[name])
            if number:
                costs[name].append(cost)
    return costs


def report(title: str, figure: str, goal: str, more: str = "") -> None:
    print(f"{title:63} {figure:>8}  goal {goal:7} {more}".rstrip(), flush=True)


def report_ratio(title: str, above: list[Cost], below: list[Cost], goal: str, sides: str, factor: float = 1.0) -> None:
    """Print the median of the ratios factor * above / below by the clock, with their range, and by CPU time."""
    ratios = sorted(factor * a.wall / b.wall for a, b in zip(above, below, strict=True))
    cpu = statistics.median(factor * a.cpu / b.cpu for a, b in zip(above, below, strict=True))
    spread = f"({ratios[0]:.2f} … {ratios[-1]:.2f}, {len(ratios)} rounds; by CPU time {cpu:.2f} x)"
    report(title, f"{statistics.median(ratios):5.2f} x", goal, f"{spread}  {sides}")


def speed(costs: list[Cost], tokens: int) -> float:
    """Tokens per second, by the median."""
    return tokens / statistics.median(cost.wall for cost in costs)


def assert_same(sides: Sides, prompts: list[list[int]], new: int) -> None:
    ours, theirs = sides.ours(prompts, new), sides.theirs(prompts, new)
    assert ours == theirs, "the sides write different tokens"
    kinds = len({token for text in ours for token in text})
    print(f"    parity: {len(prompts)} x {new} tokens, all the same ({kinds} different ones)")


def benchmark_small(sides: Sides, rounds: int) -> None:
    one, eight = draw_prompts(1, VOCABULARY), draw_prompts(8, VOCABULARY)
    costs = take_turns(
        {
            "ours, 1": lambda: sides.ours(one, NEW),
            "ours, 8": lambda: sides.ours(eight, NEW),
            "theirs, 1": lambda: sides.theirs(one, NEW),
            "theirs, 8": lambda: sides.theirs(eight, NEW),
            "products, 1": products(sides.model, 1),
            "products, 8": products(sides.model, 8),
        },
        rounds,
    )
    for rows, goal in ((1, ">= 3"), (8, "-")):
        ours, theirs = costs[f"ours, {rows}"], costs[f"theirs, {rows}"]
        words = f"{speed(ours, rows * NEW):,.0f} vs {speed(theirs, rows * NEW):,.0f} tokens/s"
        report_ratio(f"(a) 6 layers, 256 wide, batch {rows}: ours / transformers", theirs, ours, goal, words)
        assert_same(sides, one if rows == 1 else eight, NEW)
    words = f"{speed(costs['ours, 8'], 8 * NEW):,.0f} vs {speed(costs['ours, 1'], NEW):,.0f} tokens/s"
    report_ratio("    ours, batch 8 / batch 1", costs["ours, 1"], costs["ours, 8"], ">= 4", words, factor=8)
    words = "an upper bound of the row above, without attention, norms and sampling"
    title = "    its products of weights alone, batch 8 / batch 1"
    report_ratio(title, costs["products, 1"], costs["products, 8"], "-", words, factor=8)


def products(model: Any, rows: int) -> Callable[[], None]:
    """Every product with a weight that a text of `NEW` tokens takes, and nothing else."""
    weights = [module.weight for module in model.decoder.modules() if isinstance(module, torch.nn.Linear)]
    weights.append(model.decoder.tokens.weight)  # the head
    maps = [small_batch_linear(weight, None, rows, repack=True) for weight in weights]
    inputs = [torch.randn(rows, weight.shape[1]).numpy() for weight in weights]

    def multiply() -> None:
        for _ in range(NEW):
            for each, values in zip(maps, inputs, strict=True):
                each(values)

    return multiply


def costs_over_length(sides: Sides, runs: int) -> dict[str, list[float]]:
    """Milliseconds of every token of the longest text, the median of `runs`."""
    prompts = draw_prompts(1, VOCABULARY)
    new = SMALL.max_tokens - PROMPT
    times: dict[str, list[list[float]]] = {"ours": [], "transformers": []}
    for _ in range(runs + 1):
        found = []
        for _ in stream(sides.model, prompts, Decoding(max_new_tokens=new), None):
            found.append(time.perf_counter())
        times["ours"].append(found)
        clock = Clock()
        sides.theirs(prompts, new, clock)
        times["transformers"].append(clock.times)
    return {
        name: [
            1e3 * statistics.median(steps)
            for steps in zip(*([b - a for a, b in pairwise(run)] for run in all_runs[1:]), strict=True)
        ]
        for name, all_runs in times.items()
    }


def benchmark_length(sides: Sides, runs: int, plot: bool) -> None:
    costs = costs_over_length(sides, runs)
    weights = sum(parameter.nbytes for parameter in sides.model.parameters())
    for name, steps in costs.items():
        for place in (NEW, len(steps) - 32):
            begin, end = (statistics.median(steps[middle - 32 : middle + 32]) for middle in (40, place))
            growth = (weights + kept_bytes(SMALL) * (PROMPT + place)) / (weights + kept_bytes(SMALL) * (PROMPT + 40))
            title = f"    {name}: cost of token {place:,} / token 40"
            more = f"{end:.2f} vs {begin:.2f} ms; bytes that a token must read: {growth:.2f} x"
            report(title, f"{end / begin:5.2f} x", "flat" if name == "ours" else "-", more)
    if plot:
        draw(costs)


def kept_bytes(config: TextDecoder) -> int:
    """Bytes of the keys and values of one token."""
    return 2 * config.depth * (config.kv_heads or config.heads) * (config.width // config.heads) * 4


def draw(costs: dict[str, list[float]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, steps), colour in zip(costs.items(), ("#0b6f79", "#b7591a"), strict=True):
        windows = [steps[start : start + 16] for start in range(0, len(steps), 16)]
        lengths = [PROMPT + 16 * index + len(window) / 2 for index, window in enumerate(windows)]
        axes.plot(lengths, [statistics.median(window) for window in windows], color=colour, label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, SMALL.max_tokens)
    axes.set_xlabel("tokens before this one")
    axes.set_ylabel("milliseconds per token")
    axes.set_title("A 6-layer, 256-wide GPT on one CPU thread, greedy, one text", fontsize=10, loc="left")
    axes.grid(axis="y", color="#dddcd6", linewidth=0.7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, labelcolor="linecolor")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Software": None})
    print(f"    {FIGURE.relative_to(ROOT)} written")


def read_bandwidth() -> float:
    """Bytes per second that one thread reads from memory."""
    array = torch.ones(2**27)
    return array.nbytes / min(cost_of(array.sum).wall for _ in range(12))


def benchmark_smollm2(directory: Path, rounds: int, new: int) -> None:
    sides = Sides(directory)
    model = sides.model
    prompts = draw_prompts(1, model.vocabulary)
    costs = take_turns({"ours": lambda: sides.ours(prompts, new), "theirs": lambda: sides.theirs(prompts, new)}, rounds)
    words = f"{speed(costs['ours'], new):.1f} vs {speed(costs['theirs'], new):.1f} tokens/s"
    report_ratio(f"(b) {directory.name}: ours / transformers", costs["theirs"], costs["ours"], ">= 1", words)
    assert_same(sides, prompts, new)
    config, bandwidth = model.config, read_bandwidth()
    size = sum(parameter.nbytes for parameter in model.parameters()) + kept_bytes(config) * (PROMPT + new // 2)
    for name, side in costs.items():
        share = size * speed(side, new) / bandwidth
        more = f"{size / 1e6:.0f} MB per token; one thread reads {bandwidth / 1e9:.1f} GB/s"
        report(f"    {name}: share of the memory bandwidth", f"{100 * share:4.0f} %", "-", more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test")
    parser.add_argument("--plot", action="store_true", help=f"draw the cost of a token to {FIGURE.relative_to(ROOT)}")
    parser.add_argument("--smollm2", type=Path, default=ROOT / "data/weights/smollm2_135m", metavar="DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 2 if arguments.quick else 9
    with tempfile.TemporaryDirectory() as folder:
        sides = small_sides(Path(folder))
    print(
        f"CPU, {os.cpu_count()} cores, one thread; {PROMPT} + {NEW} tokens, greedy, float32; torch {torch.__version__}"
    )
    benchmark_small(sides, rounds)
    benchmark_length(sides, 1 if arguments.quick else 5, arguments.plot)
    if (arguments.smollm2 / "config.json").is_file():
        benchmark_smollm2(arguments.smollm2, 1 if arguments.quick else 5, NEW // 4 if arguments.quick else NEW)
    else:
        print(
            f"(b) SmolLM2: left out, for {arguments.smollm2} is no model; `glassworks weights smollm2_135m` fetches it"
        )


if __name__ == "__main__":
    main()
