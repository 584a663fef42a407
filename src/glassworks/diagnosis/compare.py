"""Finds where two training runs diverge: the step, the tensor, the metric, and the differences between their recipes.

Reads the logs of finished and unfinished runs, and the weights of published runs. Trains nothing and needs no torch.
"""

import filecmp
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassworks.artifacts.manifest import read_recipe
from glassworks.errors import ArtifactError
from glassworks.pipeline.verification import differing_values, first_tensor

MODEL = "model.safetensors"
RECIPE_PARTS = ("params", "code", "inputs", "fingerprint")

CLUES = {
    "samples": "the global batch is not of the same size",
    "tokens": "the runs read other data, or the same in another order",
    "learning_rate": "the schedule is another one",
    "loss": "the weights before this step, dropout or the arithmetic of the forward pass, or other data of the same length",
    "gradient_norm": "the forward pass gave the same loss: the backward pass or how gradients are added up",
}
"""Likely cause if a column differs at the first differing step. A step computes the columns in this order; the first that differs tells most."""


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two runs, with the evidence."""

    equal: bool
    """Whether the runs agree in everything that both have, up to the last common step."""
    lines: list[str]
    """Human-readable lines, the verdict first."""


@dataclass(frozen=True)
class Run:
    """The logs of a run, by step."""

    folder: Path
    digests: dict[int, dict[str, str]]
    """Digests of all tensors by step, then by name in the order of the file."""
    metrics: dict[int, dict[str, Any]]
    """All columns by step. The training row and the validation row of a step are merged."""

    @property
    def last_step(self) -> int:
        return max([*self.digests, *self.metrics])

    @property
    def digested(self) -> str:
        steps = sorted(self.digests)
        return f"{len(steps)} steps, {steps[0]} to {steps[-1]}" if steps else "none"


def compare(run_a: Path, run_b: Path) -> Comparison:
    """The comparison of two run folders with digests.jsonl and metrics.jsonl. Raises `ArtifactError` if nothing is comparable."""
    one, other = _read_run(run_a), _read_run(run_b)
    steps = sorted(one.digests.keys() & other.digests.keys())
    if not steps:
        raise ArtifactError(
            f"no step is digested in both runs ({run_a}: {one.digested}; {run_b}: {other.digested}); give both experiments the same "
            "digest_every in their training section, not more than their steps, and train again"
        )
    weights = [*_parting(one, other, steps), *_names(one, other, steps)]
    measured, notes = _metrics(one, other), _extent(one, other, steps)
    if not weights and one.last_step == other.last_step and all((run / MODEL).is_file() for run in (run_a, run_b)):
        if filecmp.cmp(run_a / MODEL, run_b / MODEL, shallow=False):
            notes.append(f"{MODEL}: every byte is the same")
        else:
            found = first_tensor(run_a / MODEL, run_b / MODEL) or "its tensors are the same, its header is not"
            weights.append(f"every digest agrees, but {MODEL} differs; {found}")
    equal = not weights and not measured
    rows = len(one.metrics.keys() & other.metrics.keys())
    if equal:
        tensors = len(one.digests[steps[-1]])
        notes.insert(
            0, f"equal: {tensors} tensors at {len(steps)} steps (the last: {steps[-1]}), metrics of {rows} steps"
        )
    elif not weights:
        notes.insert(0, f"the weights agree at every step digested in both (the last: {steps[-1]})")
    elif not measured:
        notes.insert(0, f"metrics.jsonl: every number in both agrees ({rows} steps)")
    return Comparison(equal, [*weights, *measured, *notes, *_recipes(one, other, equal)])


def _read_run(folder: Path) -> Run:
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder}: no such folder; name a trained model (models/NAME) or work in progress (.work/train-NAME-KEY)"
        )
    digests = {row["step"]: row["digests"] for row in _rows(folder / "digests.jsonl", step=int, digests=dict)}
    metrics: dict[int, dict[str, Any]] = {}
    for row in _rows(folder / "metrics.jsonl", step=int):
        metrics.setdefault(row["step"], {}).update(row)
    return Run(folder, digests, metrics)


def _rows(path: Path, **columns: type) -> Iterator[dict[str, Any]]:
    """The rows of a log, which must have these columns. An incomplete last line is skipped: it was cut by a kill, or is being written."""
    if not path.is_file():
        raise ArtifactError(
            f"{path.parent}: no {path.name}; name a trained model (models/NAME) or work in progress (.work/train-NAME-KEY); "
            "a model from before these logs were kept must be trained again"
        )
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            if not line.endswith(b"\n"):
                return
            row = None
        if not isinstance(row, dict) or not all(isinstance(row.get(name), kind) for name, kind in columns.items()):
            raise ArtifactError(
                f"{path}:{number}: not a JSON row with {' and '.join(columns)}; the file was altered: delete the folder and train again"
            )
        yield row


def _parting(one: Run, other: Run, steps: list[int]) -> list[str]:
    """One line with the steps between which the weights diverge and the first differing tensor; empty if they agree."""
    for index, step in enumerate(steps):
        before, after = one.digests[step], other.digests[step]
        shared = [name for name in before if name in after]
        differing = [name for name in shared if before[name] != after[name]]
        if differing:
            when = f"after step {steps[index - 1]} and at the latest at step {step}"
            if not index:
                when = f"at the latest at step {step}, the first digested in both"
            return [
                f"the runs part {when}; first tensor: {differing[0]} ({len(differing)} of {len(shared)} tensors differ)"
            ]
    return []


def _names(one: Run, other: Run, steps: list[int]) -> list[str]:
    """Lines about tensors that only one run has, at the first step with such tensors."""
    for step in steps:
        before, after = one.digests[step], other.digests[step]
        lines = []
        for run, own, others in ((one, before, after), (other, after, before)):
            if alone := [name for name in own if name not in others]:
                lines.append(
                    f"step {step}: {len(alone)} of {len(own)} tensors in {run.folder} only, such as {alone[0]}"
                )
        if lines:
            return lines
    return []


def _metrics(one: Run, other: Run) -> list[str]:
    """Lines about the first step at which a common column differs, with the likely cause; empty if all agree."""
    for step in sorted(one.metrics.keys() & other.metrics.keys()):
        before, after = one.metrics[step], other.metrics[step]
        shared = sorted((before.keys() & after.keys()) - {"step"}, key=_in_order_of_computation)
        differing = [name for name in shared if not _same(before[name], after[name])]
        if differing:
            first, *more = differing
            same = [name for name in shared if name not in differing]
            line = (
                f"metrics.jsonl: first difference at step {step}: {first} is {before[first]} in {one.folder}, "
                f"{after[first]} in {other.folder}"
            )
            line += f"; {', '.join(more)} too" if more else ""
            line += f"; the same there: {', '.join(same)}" if same else ""
            return [line, *([f"what {first} hints at: {CLUES[first]}"] if first in CLUES else [])]
    return []


def _in_order_of_computation(column: str) -> tuple[int, str]:
    known = list(CLUES)
    return (known.index(column) if column in known else len(known), column)


def _same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other)  # NaN


def _extent(one: Run, other: Run, steps: list[int]) -> list[str]:
    """Notes on steps that could not be compared."""
    lines = []
    end = min(one.last_step, other.last_step)
    if any({step for step in run.digests if step <= end} != set(steps) for run in (one, other)):
        lines.append(
            f"not digested at the same steps ({one.folder}: {one.digested}; {other.folder}: {other.digested}): "
            f"only the {len(steps)} steps in both are compared"
        )
    if one.last_step != other.last_step:
        lines.append(
            f"{one.folder} goes to step {one.last_step}, {other.folder} to step {other.last_step}: "
            "compared as far as they go together"
        )
    return lines


def _recipes(one: Run, other: Run, equal: bool) -> list[str]:
    """Differences between the recipes of the runs; empty if a run has no recipe."""
    before, after = (read_recipe(run.folder) for run in (one, other))
    if before is None or after is None:
        return []
    before, after = ({part: recipe.get(part) or {} for part in RECIPE_PARTS} for recipe in (before, after))
    lines = [
        f"recipe: {name}: {_shown(then)} in {one.folder}, {_shown(now)} in {other.folder}"
        for name, then, now in differing_values(before, after)
    ]
    if lines or equal:
        return lines
    return [
        "the recipes are the same: what differs is not in them (the machine, how the run was carried out), "
        "or training is not deterministic"
    ]


def _shown(value: Any) -> str:
    """A value as JSON, or a shortened sha256."""
    text = json.dumps(value)
    return f"{value[:12]}…" if re.fullmatch('"[0-9a-f]{64}"', text) else text
