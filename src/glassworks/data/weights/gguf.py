"""Reader of GGUF, the format of llama.cpp: metadata and tensors, with quantised tensors as float32.

Only the block types of the supported models are read. Any other type raises an error that names it.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from glassworks.data.weights.cursor import Cursor

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
BLOCK = 32
"""Weights per scale."""
Q4_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("nibbles", "u1", BLOCK // 2)])
Q8_0 = np.dtype([("scale", "<f2"), ("values", "i1", BLOCK)])
TYPES: dict[int, tuple[np.dtype, int]] = {
    0: (np.dtype("<f4"), 1),
    1: (np.dtype("<f2"), 1),
    3: (Q4_1, BLOCK),
    8: (Q8_0, BLOCK),
}
"""The item layout of each tensor type, and the number of weights per item."""


@dataclass(frozen=True)
class Entry:
    """The location of a tensor, and its shape in PyTorch's order, the fastest dimension last."""

    shape: tuple[int, ...]
    kind: int
    offset: int


class Gguf:
    """A GGUF file. Raises `DataError` for an invalid file."""

    def __init__(self, data: bytes, name: str) -> None:
        self.cursor = cursor = Cursor(data, name)
        if bytes(cursor.bytes(4)) != b"GGUF":
            raise cursor.fault("not a GGUF file")
        if (version := cursor.number("I")) not in (2, 3):
            raise cursor.fault(f"GGUF version {version}, where 2 and 3 are read")
        tensors, keys = cursor.number("Q"), cursor.number("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = cursor.text("Q")
            self.metadata[key] = self._value(cursor.number("I"))
        self.entries: dict[str, Entry] = {}
        for _ in range(tensors):
            key, dimensions = cursor.text("Q"), cursor.number("I")
            shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
            self.entries[key] = Entry(shape, cursor.number("I"), cursor.number("Q"))
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise cursor.fault(f"an alignment of {alignment!r}")
        self.start = -(-cursor.position // alignment) * alignment

    def tensor(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        entry = self.entries.get(name)
        if entry is None:
            raise self.cursor.fault(f"no tensor {name!r} in it")
        if entry.kind not in TYPES:
            raise self.cursor.fault(f"the tensor {name!r} is of type {entry.kind}, where {sorted(TYPES)} are read")
        layout, held = TYPES[entry.kind]
        count, rest = divmod(prod(entry.shape), held)
        if rest:
            raise self.cursor.fault(f"the tensor {name!r} of shape {list(entry.shape)} is no whole number of blocks")
        self.cursor.position = self.start + entry.offset
        items = np.frombuffer(self.cursor.bytes(count * layout.itemsize), layout)
        return _dequantised(items, entry.kind).reshape(entry.shape)

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self.cursor.text("Q")
        if kind == ARRAY:
            inner, count = self.cursor.number("I"), self.cursor.number("Q")
            if inner == ARRAY:
                raise self.cursor.fault("a list of lists, which no model needs")
            return [self._value(inner) for _ in range(count)]
        if kind not in NUMBERS:
            raise self.cursor.fault(f"a value of the unknown type {kind}")
        return self.cursor.number(NUMBERS[kind])


def _dequantised(items: np.ndarray, kind: int) -> np.ndarray:
    """Q8_0: scale * q with q in -128 … 127. Q4_1: scale * q + minimum with q in 0 … 15, the first half of a block in the low bits."""
    if kind == 8:
        return items["scale"].astype(np.float32)[:, None] * items["values"]
    if kind == 3:
        quants = np.concatenate([items["nibbles"] & 15, items["nibbles"] >> 4], axis=1)
        return items["scale"].astype(np.float32)[:, None] * quants + items["minimum"].astype(np.float32)[:, None]
    return items.astype(np.float32)
