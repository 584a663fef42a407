"""Exclusive GPUs for stages that run at the same time on one machine, by a lock file per device.

All projects of a user share the locks. The kernel releases them when the process ends. Devices granted by SLURM are exclusive already and need no lock.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from glassworks.errors import ConfigError
from glassworks.watchdog import unwatched

VISIBLE = "CUDA_VISIBLE_DEVICES"
PAUSE = 1.0
"""Seconds between two attempts to lock a device."""


@contextmanager
def held_devices(most: int, exactly: int | None = None) -> Iterator[None]:
    """Lock free devices and hide the others from CUDA: `exactly` as many, or a power of two up to `most`.

    Prints a line and waits while too few are free. Must run before CUDA is initialized in this process.
    """
    before = os.environ.get(VISIBLE)
    if "SLURM_JOB_ID" in os.environ and before is not None:
        yield
        return
    devices = visible_devices()
    if exactly and exactly > len(devices):
        raise ConfigError(f"--workers {exactly}: there are {len(devices)} devices, and every worker needs one")
    locks = _wait_for(devices, exactly or 1, exactly or most)
    os.environ[VISIBLE] = ",".join(locks)
    try:
        yield
    finally:
        _release(locks)
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def visible_devices() -> dict[str, str]:
    """The devices visible to this process: CUDA's name of each, and the name of its lock, which all processes share."""
    known, given = _identifiers(), os.environ.get(VISIBLE)
    if given is not None:
        return {name: known.get(name, name) for name in given.split(",") if name}
    return {name: name for name in known.values() or _numbers()}


def _identifiers() -> dict[str, str]:
    """The UUID of every device by its index; empty without NVIDIA's driver."""
    try:
        shown = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.split(", ") for line in shown.splitlines())


def _numbers() -> list[str]:
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _wait_for(devices: dict[str, str], least: int, most: int) -> dict[str, IO[str]]:
    locks = _take(devices, most)
    if len(locks) < least:
        print(f"waiting for a free GPU: other stages hold all {len(devices)}", file=sys.stderr, flush=True)
    with unwatched():
        while len(locks) < least:
            _release(locks)
            time.sleep(PAUSE)
            locks = _take(devices, most)
    power = 1 << (len(locks).bit_length() - 1)
    _release({name: locks.pop(name) for name in list(locks)[power:]})
    return locks


def _take(devices: dict[str, str], most: int) -> dict[str, IO[str]]:
    """Locks of up to `most` free devices."""
    folder = Path(tempfile.gettempdir(), f"glassworks-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    locks: dict[str, IO[str]] = {}
    for name, lock in devices.items():
        if len(locks) == most:
            break
        file = (folder / f"{lock.replace('/', '-')}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks[name] = file
        except BlockingIOError:
            file.close()
    return locks


def _release(locks: dict[str, IO[str]]) -> None:
    for file in locks.values():
        file.close()
