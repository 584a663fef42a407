"""The evaluation `boards`: boards of held-out symmetry classes that a recursive model solves in every cell.

It scores the answers after several numbers of supervision steps, and the best of several noisy tries. A board counts only if all its cells are right. Intervals come
from a bootstrap over boards, and from one over symmetry classes, which is wider if the classes differ.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from glassworks.data.reading.dataset import Sample
from glassworks.data.sudoku import SIDE, STACK
from glassworks.evaluation.boards.labels import labels
from glassworks.evaluation.boards.settings import BoardsEvaluation
from glassworks.evaluation.bootstrap import mean_interval, ratio_interval
from glassworks.evaluation.scoring import Item, Scoring
from glassworks.models.recursive import Recursive

SHOWN = 12
"""Boards kept for the report."""
DIGITS = 6
"""Decimal digits of a halting logit."""


class PuzzlesTask(Protocol):
    """A task whose models this evaluation can score."""

    def board(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """The puzzle and the solution of a sample, symbols [L]; 0 is an empty cell."""


def run(scoring: Scoring, config: BoardsEvaluation, task: PuzzlesTask, model: Recursive) -> int:
    """Solve the boards of the split; returns their number."""
    dataset, count = scoring.scored(config)
    device, steps = scoring.workers.device, model.config.supervision_steps
    depths = sorted({*config.depths, steps})

    @torch.inference_mode()
    def solve(batch: range) -> list[Item]:
        samples = [dataset[index] for index in batch]
        boards = [task.board(sample) for sample in samples]
        puzzles, solutions = (
            torch.from_numpy(np.stack(part).astype(np.int64)).to(device) for part in zip(*boards, strict=True)
        )
        items: list[Item] = [
            {
                "key": sample.key,
                "class": str(sample.json().get("group", sample.key)),
                "puzzle": puzzle.tolist(),
                "solution": solution.tolist(),
                "depths": {},
            }
            for sample, (puzzle, solution) in zip(samples, boards, strict=True)
        ]
        answers_at = _answers_at(model, puzzles, depths)
        for depth, (answers, _) in answers_at.items():
            right = (answers == solutions).sum(1).tolist()
            for item, cells in zip(items, right, strict=True):
                item["depths"][str(depth)] = cells
        final, halting = answers_at[steps]
        for item, answer, logit in zip(items, final.tolist(), halting.tolist(), strict=True):
            item |= {"answer": answer, "halting": round(logit, DIGITS)}
        if config.tries:
            tried = range(batch.start, min(batch.stop, config.tried_boards or batch.stop))
            keys = [sample.key for sample in samples][: len(tried)]
            if keys:
                found = _tries(model, puzzles[: len(keys)], solutions[: len(keys)], keys, config, scoring.seed)
                for item, tries in zip(items, found, strict=False):
                    item["tries"] = tries
        return items

    items = scoring.in_batches(count, config.batch_size, solve, "boards")
    if not scoring.workers.first:
        return count
    metrics = summary(items, config, steps, scoring.seed)
    metrics["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    scoring.write(metrics, labels(metrics, config), map(shown, items[:SHOWN]))
    return count


def _answers_at(model: Recursive, puzzles: Tensor, depths: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """The answers [B, L] and halting logits [B] after each of several numbers of supervision steps."""
    found, states = {}, None
    for step in range(1, max(depths) + 1):
        result = model(puzzles, states)
        states = result.states
        if step in depths:
            found[step] = result.logits.argmax(-1), result.halting
    return found


def _tries(
    model: Recursive, puzzles: Tensor, solutions: Tensor, keys: Sequence[str], config: BoardsEvaluation, seed: int
) -> list[list[tuple[float, int]]]:
    """For each board its noisy tries: the halting logit and the number of right cells."""
    steps = model.config.supervision_steps
    tries: list[list[tuple[float, int]]] = [[] for _ in keys]
    for number in range(max(config.tries)):
        answer, latent = model.begin(len(keys))
        noise = torch.stack([_noise(seed, key, number, (steps, *latent.shape[1:])) for key in keys], dim=1)
        noise = noise.to(latent.device)
        for step in range(steps):
            result = model(puzzles, (answer, latent + config.noise * noise[step]))
            answer, latent = result.states
        right = (result.logits.argmax(-1) == solutions).sum(1).tolist()
        for own, logit, cells in zip(tries, result.halting.tolist(), right, strict=True):
            own.append((round(logit, DIGITS), cells))
    return tries


def _noise(seed: int, key: str, number: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise of try `number` on a board, which depends on neither the batch nor the number of tries."""
    digest = hashlib.sha256(f"{seed}/noisy try/{key}/{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator)


def summary(items: Sequence[Item], config: BoardsEvaluation, steps: int, seed: int) -> dict[str, Any]:
    """The metrics of scored boards. The headline score is that after `steps` supervision steps."""
    cells = len(items[0]["solution"])
    classes = [item["class"] for item in items]

    def scores(right: Sequence[int], of: Sequence[str]) -> dict[str, Any]:
        solved = np.asarray(right) == cells
        shares = np.asarray(right) / cells
        by_class = {name: [bool(value) for value, own in zip(solved, of, strict=True) if own == name] for name in of}
        return {
            "boards": mean_interval(solved, resamples=config.bootstrap, seed=seed),
            "boards_by_class": ratio_interval(
                [sum(values) for values in by_class.values()],
                [len(values) for values in by_class.values()],
                resamples=config.bootstrap,
                seed=seed,
            ),
            "cells": mean_interval(shares, resamples=config.bootstrap, seed=seed),
        }

    tried = [item for item in items if "tries" in item]
    givens = [sum(value > 0 for value in item["puzzle"]) for item in items]
    of_classes: Mapping[str, list[bool]] = {
        name: [item["depths"][str(steps)] == cells for item in items if item["class"] == name]
        for name in sorted(set(classes))
    }
    metrics: dict[str, Any] = {
        "samples": len(items),
        "split": config.split,
        "symmetry_classes": len(of_classes),
        "givens": round(float(np.mean(givens)), 2),
        "steps": steps,
        "model": scores([item["depths"][str(steps)] for item in items], classes),
        "depths": {
            str(depth): scores([item["depths"][str(depth)] for item in items], classes)
            for depth in map(int, items[0]["depths"])
        },
        "classes": {name: round(sum(solved) / len(solved), DIGITS) for name, solved in of_classes.items()},
        "halting_accuracy": mean_interval(
            [(item["halting"] > 0) == (item["depths"][str(steps)] == cells) for item in items],
            resamples=config.bootstrap,
            seed=seed,
        ),
        "guessing": {
            "boards": 0.0,
            "cells": round(float(np.mean([(n + (cells - n) / SIDE) / cells for n in givens])), DIGITS),
        },
    }
    if tried:
        metrics["noise"], metrics["tried_boards"] = config.noise, len(tried)
        of_tried = [item["class"] for item in tried]
        metrics["tries"] = {
            "without noise": scores([item["depths"][str(steps)] for item in tried], of_tried),
            **{str(most): scores([chosen(item["tries"][:most]) for item in tried], of_tried) for most in config.tries},
            f"any of {config.tries[-1]}": scores(
                [max(right for _, right in item["tries"]) for item in tried], of_tried
            ),
        }
    return metrics


def chosen(tries: Sequence[tuple[float, int]]) -> int:
    """The right cells of the try with the highest halting logit, the first of equals."""
    return max(tries, key=lambda tried: tried[0])[1]


def shown(item: Item) -> Item:
    """A board for the report: puzzle, answer and solution side by side. A wrong cell of the answer has a star."""
    puzzle, answer, solution = item["puzzle"], item["answer"], item["solution"]
    wrong = sum(given != true for given, true in zip(answer, solution, strict=True))
    lines = ["puzzle          answer          solution"]
    for row in range(SIDE):
        own = range(row * SIDE, (row + 1) * SIDE)
        marks = ["*" if answer[cell] != solution[cell] else " " for cell in own]
        lines.append(
            "  ".join(
                (
                    _line([puzzle[cell] for cell in own], [" "] * SIDE),
                    _line([answer[cell] for cell in own], marks),
                    _line([solution[cell] for cell in own], [" "] * SIDE),
                )
            ).rstrip()
        )
    board = f"{item['key']}, {item['class']}: {'solved' if not wrong else f'{wrong} wrong cells'}"
    kept = {name: value for name, value in item.items() if name not in ("puzzle", "answer", "solution")}
    return kept | {"board": board, "grids": "\n".join(lines)}


def _line(cells: Sequence[int], marks: Sequence[str]) -> str:
    """A row of a board, with a bar between the stacks."""
    parts = [f"{cell or '.'}{mark}" for cell, mark in zip(cells, marks, strict=True)]
    return "| ".join("".join(parts[start : start + STACK]) for start in range(0, SIDE, STACK))
