"""Checkpoints of work in progress: a directory that is whole or does not count.

A run's state is its weights, its optimizer moments and one integer, the step. Written to a temporary directory, flushed, renamed; `state.json` comes last
and holds the digests of the others. safetensors and JSON only.
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from glassworks.artifacts.digests import flush_to_disk, sha256_file, write_json

STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk: the state after `step` optimizer steps."""

    directory: Path
    step: int


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, keep: int) -> None:
    """Save the state after `step` steps, then remove all but the `keep` newest checkpoints."""
    temporary, final = folder / f".step-{step:08d}.{os.getpid()}.tmp", folder / f"step-{step:08d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        files = {"model.safetensors": dict(model.state_dict()), "optimizer.safetensors": _moments(model, optimizer)}
        for name, tensors in files.items():
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary / name)
            flush_to_disk(temporary / name)
        write_json(temporary / STATE, {"step": step, "files": {name: sha256_file(temporary / name) for name in files}})
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        flush_to_disk(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose digests are right; a damaged one is passed over with a line on stderr."""
    for directory in sorted(folder.glob("step-*"), reverse=True):
        try:
            state = json.loads((directory / STATE).read_text())
            damaged = [name for name, digest in state["files"].items() if sha256_file(directory / name) != digest]
        except (OSError, ValueError, KeyError):
            damaged = [STATE]
        if not damaged:
            return Checkpoint(directory, state["step"])
        print(f"warning: {directory}: {damaged[0]} is damaged; falling back to the checkpoint before", file=sys.stderr)
    return None


def load_checkpoint(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the saved weights and moments into `model` and `optimizer`."""
    model.load_state_dict(load_file(checkpoint.directory / "model.safetensors"))
    moments = load_file(checkpoint.directory / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        if f"{name}/exp_avg" in moments:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(checkpoint.step)),
                "exp_avg": moments[f"{name}/exp_avg"],
                "exp_avg_sq": moments[f"{name}/exp_avg_sq"],
            }


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        f"{name}/{moment}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for moment in ("exp_avg", "exp_avg_sq")
    }
