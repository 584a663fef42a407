"""Reads a binary format from front to back and never past its end."""

import struct

from glassworks.errors import DataError


class Cursor:
    """A position in `data` (little-endian); a `DataError` names the file when it ends too early."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.position = memoryview(data), name, 0

    def bytes(self, count: int) -> memoryview:
        """The next bytes."""
        end = self.position + count
        if end > len(self.data):
            raise self.fault("it ends too early")
        part, self.position = self.data[self.position : end], end
        return part

    def number(self, code: str) -> int | float | bool:
        """The next number; `code` as in the module struct."""
        return struct.unpack(f"<{code}", self.bytes(struct.calcsize(code)))[0]

    def text(self, length_code: str) -> str:
        """The next text in UTF-8, which its length in bytes precedes."""
        try:
            return str(self.bytes(self.number(length_code)), "utf-8")
        except UnicodeDecodeError:
            raise self.fault("a name in it is not UTF-8") from None

    def fault(self, what: str) -> DataError:
        """The error that says what is wrong with the file."""
        return DataError(f"{self.name}: {what} (at byte {self.position:,} of {len(self.data):,})")
