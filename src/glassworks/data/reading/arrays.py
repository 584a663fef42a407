"""Folders of arrays that all workers of a run map into memory: one .npy file for each array, without pickle."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from glassworks.artifacts.digests import disk_errors, flush_to_disk
from glassworks.artifacts.machine import unique_name


def save_arrays(folder: Path, arrays: Mapping[str, np.ndarray | None]) -> None:
    """Write the arrays that are not None. `folder` appears by one rename; if another worker has already written it, it stays."""
    temporary = folder.with_name(f".{folder.name}.{unique_name()}.tmp")
    try:
        with disk_errors(folder):
            temporary.mkdir(parents=True, exist_ok=True)
            for name, array in arrays.items():
                if array is not None:
                    np.save(temporary / f"{name}.npy", array, allow_pickle=False)
                    flush_to_disk(temporary / f"{name}.npy")
            flush_to_disk(temporary)
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
            flush_to_disk(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder by name, mapped into memory."""
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
