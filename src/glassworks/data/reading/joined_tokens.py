"""Joins the tokens of many shards on disk. It holds those of one shard in memory; `data.reading.tokens.join` holds all."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glassworks.artifacts.digests import disk_errors
from glassworks.data.reading.tokens import Tokens
from glassworks.watchdog import beat

DTYPES = {name: np.dtype(code) for name, code in zip(Tokens._fields, ("<i4", "<i8", "<i8", "<f4", "?"), strict=True)}


def join_saved(parts: Sequence[Path], folder: Path) -> None:
    """Write the tokens of a split into the empty `folder`, with the bytes of `join(…).save`. `parts` are folders that `Tokens.save` wrote, at least one."""
    names, begins, lengths = set[str](), [0], dict.fromkeys(Tokens._fields, 0)
    for part in parts:
        tokens = Tokens.load(part)
        names |= {name for name in Tokens._fields if getattr(tokens, name) is not None}
        for name in Tokens._fields:
            lengths[name] += _length(tokens, name)
        begins.append(begins[-1] + len(tokens.ids))
    folder.mkdir(parents=True)
    with disk_errors(folder):
        for name in names:
            with (folder / f"{name}.npy").open("wb") as file:
                shape = {"descr": DTYPES[name].str, "fortran_order": False, "shape": (lengths[name],)}
                np.lib.format.write_array_header_1_0(file, shape)
                for part, begin in zip(parts, begins, strict=False):
                    file.write(_array(Tokens.load(part), name, begin).astype(DTYPES[name]).data)
                    beat()


def _length(tokens: Tokens, name: str) -> int:
    if name == "segments":
        return len(tokens.ends if tokens.segments is None else tokens.segments)
    return len(tokens.ids if name in ("ids", "weights") else tokens.ends)


def _array(tokens: Tokens, name: str, begin: int) -> np.ndarray:
    """An array of a part whose first token is number `begin` of the split. A part without the array has texts alone."""
    array: np.ndarray | None = getattr(tokens, name)
    if array is None:
        array = tokens.ends if name == "segments" else np.ones(_length(tokens, name))
    return array + begin if name in ("ends", "segments") else array
