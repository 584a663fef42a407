"""The words and marks for the states of stages, and the sizes that both views show."""

from collections.abc import Mapping

from glassworks.progress import ProgressLine

WORDS = {
    "running": "running",
    "killed": "killed",
    "stopped": "stopped",
    "stale": "stale",
    "missing": "to do",
    "fresh": "done",
}
GLYPHS = {"running": "▶", "killed": "✕", "stopped": "■", "stale": "◐", "missing": "○", "fresh": "✓"}
KINDS = ("fetch", "records", "shards", "weights", "features", "tokenizer", "pack", "train", "evaluate", "report")
"""The kinds of stages in the order of their columns."""


def headline(counts: Mapping[str, int]) -> str:
    """The numbers of stages by state: 1 running, 33 done, 12 to do."""
    return ", ".join(f"{count} {WORDS[state]}" for state, count in counts.items() if count) or "no stages"


def speed(line: ProgressLine) -> str:
    """The rate of a progress: 13.3 steps/s."""
    digits = 1 if line.rate < 100 else 0
    return f"{line.rate:,.{digits}f} {line.unit}/s"
