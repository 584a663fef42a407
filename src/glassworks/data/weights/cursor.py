"""Sequential reader of binary formats that never reads past the end."""

import struct

from glassworks.errors import DataError


class Cursor:
    """A position in `data` (little-endian). Raises `DataError` naming a truncated file."""

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
        """The next number, with a format `code` of the module struct."""
        return struct.unpack(f"<{code}", self.bytes(struct.calcsize(code)))[0]

    def text(self, length_code: str) -> str:
        """The next UTF-8 text, preceded by its length in bytes."""
        try:
            return str(self.bytes(self.number(length_code)), "utf-8")
        except UnicodeDecodeError:
            raise self.fault("a name in it is not UTF-8") from None

    def fault(self, what: str) -> DataError:
        """An error that names the file and its fault."""
        return DataError(f"{self.name}: {what} (at byte {self.position:,} of {len(self.data):,})")
