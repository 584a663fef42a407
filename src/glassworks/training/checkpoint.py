"""Atomic checkpoints of a run in progress.

The state of a run is its trained weights, optimizer moments, fp16 loss scale, weight average and step. Frozen weights are not saved: building the
model restores them, and `state.json` holds their digest. Tensors are saved as safetensors, the rest as JSON. A
checkpoint is written to a temporary directory, flushed and renamed. `state.json` is written last and holds the digests of all files, its own included.
Tensors are saved unsharded, so a run may resume with another number of workers or another reduction.
"""

import json
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from glassworks.artifacts.digests import digest_json, disk_errors, flush_to_disk, sha256_file, write_json
from glassworks.artifacts.finite import holds, listed, not_finite
from glassworks.errors import ArtifactError, DataError
from glassworks.training.sharding import like, whole
from glassworks.training.step import Trainer
from glassworks.training.task import B, M

STATE = "state.json"
WEIGHTS, MOMENTS, AVERAGE = "model.safetensors", "optimizer.safetensors", "average.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """A copy of the state after `step` steps, written while training continues."""

    step: int
    files: dict[str, dict[str, Tensor]]
    """Tensors by file and name."""
    scalars: dict[str, object]
    """State of the optimizer and the loss scaler other than tensors."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: the state after `step` steps."""

    directory: Path
    step: int


def snapshot(trainer: Trainer[M, B], step: int) -> Snapshot | None:
    """The state copied to the CPU on rank 0, None on other ranks. Gathers sharded tensors: every rank must call this.

    Raises `DataError` on rank 0 if a tensor holds NaN or infinite values; other ranks end with it.
    """
    moments: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, object]] = {}
    for name, parameter in trainer.groups.trainable.items():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                moments[f"{name}/{key}"] = value
            else:
                numbers.setdefault(name, {})[key] = value
    files: dict[str, dict[str, Tensor]] = {WEIGHTS: dict(trainer.groups.trainable), MOMENTS: moments}
    if trainer.average:
        files[AVERAGE] = trainer.average.tensors
    if not trainer.workers.first:
        for tensors in files.values():
            for tensor in tensors.values():
                whole(tensor)
        return None
    copied: dict[str, dict[str, Tensor]] = {}
    wrong = []
    for file, tensors in files.items():
        copied[file] = {}
        for name, tensor in tensors.items():
            full = whole(tensor.detach())
            wrong += not_finite({name: full})
            copied[file][name] = full.to("cpu", copy=True, memory_format=torch.contiguous_format)
    if wrong:
        raise DataError(
            f"step {step}: {listed(wrong)} {holds(wrong)} NaN or infinite values; "
            "lower the learning rate; the last good checkpoint stays"
        )
    return Snapshot(
        step, copied, {"optimizer": numbers, "precision": trainer.precision.state(), "frozen": trainer.frozen}
    )


def load(checkpoint: Checkpoint, trainer: Trainer[M, B]) -> None:
    """Restore a saved state into a trainer built from the same configuration."""
    state = json.loads((checkpoint.directory / STATE).read_text())
    load_weights(checkpoint, trainer)
    trainer.optimizer.state.clear()
    for key, tensor in load_file(checkpoint.directory / MOMENTS).items():
        name, _, field = key.rpartition("/")
        parameter = trainer.groups.parameters[name]
        spread = like(tensor, parameter) if tensor.shape == parameter.shape else tensor.to(parameter.device)
        trainer.optimizer.state[parameter][field] = spread
    for name, numbers in state["optimizer"].items():
        trainer.optimizer.state[trainer.groups.parameters[name]].update(numbers)
    trainer.precision.load(state["precision"])
    if trainer.average:
        tensors = load_file(checkpoint.directory / AVERAGE)
        trainer.average.load({name: like(tensors[name], old) for name, old in trainer.average.tensors.items()})


@torch.no_grad()
def load_weights(checkpoint: Checkpoint, trainer: Trainer[M, B], averaged: bool = False) -> None:
    """Restore the trained weights, or their moving average. Raises `ArtifactError` if the frozen weights differ from those of the run."""
    state = json.loads((checkpoint.directory / STATE).read_text())
    if trainer.workers.first and state["frozen"] != trainer.frozen:
        raise ArtifactError(
            f"{checkpoint.directory}: trained over other frozen weights; remove {checkpoint.directory.parent} to start again"
        )
    saved = load_file(checkpoint.directory / (AVERAGE if averaged else WEIGHTS))
    for name, parameter in trainer.groups.trainable.items():
        parameter.copy_(like(saved[name], parameter))


class Checkpoints:
    """The checkpoints of one run, written by a background thread. Keeps the newest `keep` and the best."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.writing: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        """Finish a write in progress, also after an error."""
        self.thread.shutdown()

    def save(self, state: Snapshot, best_step: int | None = None) -> None:
        """Write a checkpoint in the background, then remove all but the newest and that of `best_step`.

        Waits for the previous write first.
        """
        self.wait()
        self.writing = self.thread.submit(self._write, state, best_step)

    def check(self) -> None:
        """Raise the error of a finished background write, if there is one."""
        if self.writing and self.writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until everything is on disk. Raises the error of the background write."""
        writing, self.writing = self.writing, None
        if writing:
            writing.result()

    def newest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint. Warns on stderr about each damaged one."""
        for directory in sorted(self.folder.glob("step-*"), reverse=True):
            damaged = damage(directory)
            if damaged is None:
                return self.at(int(directory.name.removeprefix("step-")))
            print(f"warning: {damaged}; falling back to the checkpoint before", file=sys.stderr, flush=True)
        return None

    def is_whole(self, step: int) -> bool:
        """Whether the checkpoint of that step exists with matching digests."""
        return damage(self.at(step).directory) is None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step, which may not exist."""
        return Checkpoint(self.folder / f"step-{step:08d}", step)

    def drop_after(self, step: int) -> None:
        """Remove every checkpoint later than `step`."""
        for directory in list(self.folder.glob("step-*")):
            if int(directory.name.removeprefix("step-")) > step:
                _remove(directory)

    def _write(self, state: Snapshot, best_step: int | None) -> None:
        final = self.at(state.step).directory
        temporary = self.folder / f".{final.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        with disk_errors(final):
            temporary.mkdir(parents=True)
            try:
                for name, tensors in state.files.items():
                    save_file(tensors, temporary / name)
                    flush_to_disk(temporary / name)
                digests = {name: sha256_file(temporary / name) for name in state.files}
                content = {"step": state.step, "files": digests, **state.scalars}
                write_json(temporary / STATE, {**content, "digest": digest_json(content)})
                flush_to_disk(temporary)
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
                flush_to_disk(self.folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        kept = {final, *sorted(self.folder.glob("step-*"))[-self.keep :]}
        if best_step is not None:
            kept.add(self.at(best_step).directory)
        for old in list(self.folder.glob("step-*")):
            if old not in kept:
                _remove(old)


def damage(directory: Path) -> str | None:
    """One line about the damage to a checkpoint; None when all digests match and all tensors are finite."""
    try:
        state = json.loads((directory / STATE).read_text())
        if state.pop("digest") != digest_json(state):
            raise ValueError
        wrong = [name for name, digest in state["files"].items() if sha256_file(directory / name) != digest]
    except (OSError, ValueError, KeyError, AttributeError):
        return f"{directory}: {STATE} is missing or damaged"
    if wrong:
        return f"{directory}: {wrong[0]} is damaged"
    for name in state["files"]:
        try:
            bad = not_finite(load_file(directory / name))
        except SafetensorError:
            return f"{directory}: {name} is damaged"
        if bad:
            return f"{directory}: {listed(bad)} in {name} {holds(bad)} NaN or infinite values"
    return None


def _remove(directory: Path) -> None:
    """Rename before deleting: a kill in between leaves no partial checkpoint under a valid name."""
    doomed = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    directory.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
