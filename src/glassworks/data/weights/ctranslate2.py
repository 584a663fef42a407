"""Reader of CTranslate2's model.bin, a list of named arrays without code."""

from math import prod

import numpy as np

from glassworks.data.weights.cursor import Cursor

TYPES = [np.dtype(code) for code in ("<f4", "i1", "<i2", "<i4", "<f2")]
"""Array types, indexed by their code in the file."""


def read_variables(data: bytes, name: str) -> tuple[str, dict[str, np.ndarray]]:
    """The kind of model and its arrays, with aliases resolved. Raises `DataError` for a file that is not of version 6."""
    cursor = Cursor(data, name)
    if (version := cursor.number("I")) != 6:
        raise cursor.fault(f"version {version} of CTranslate2's format, where 6 is read")
    kind, _ = _name(cursor), cursor.number("I")
    found: dict[str, np.ndarray] = {}
    for _ in range(cursor.number("I")):
        key, rank = _name(cursor), cursor.number("B")
        shape = tuple(cursor.number("I") for _ in range(rank))
        number, size = cursor.number("B"), cursor.number("I")
        if number >= len(TYPES) or size != prod(shape) * TYPES[number].itemsize:
            raise cursor.fault(f"{key} of type {number} and shape {list(shape)} cannot have {size:,} bytes")
        found[key] = np.frombuffer(cursor.bytes(size), TYPES[number]).reshape(shape)
    for _ in range(cursor.number("I")):
        alias, key = _name(cursor), _name(cursor)
        if key not in found:
            raise cursor.fault(f"{alias} stands for {key}, which is not there")
        found[alias] = found[key]
    if cursor.position != len(data):
        raise cursor.fault("it goes on where it should end")
    return kind, found


def _name(cursor: Cursor) -> str:
    return cursor.text("H").rstrip("\0")
