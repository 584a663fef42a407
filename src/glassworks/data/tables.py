"""One entrance for tables: CSV of any separator and encoding, JSON, JSONL, parquet and Flickr's .token, row by row.

A broken row is `Dropped` with its physical line; only a table that cannot be read at all raises `DataError`.
A quoted cell with a line break, one of whose lines is itself a row of the table, is a fault: a quote was never closed.
"""

import codecs
import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from glassworks.config.base import nearest
from glassworks.data.file_kinds import describe, image_extension
from glassworks.data.json_files import NotJSON, parse_json
from glassworks.data.records import Dropped, Remark
from glassworks.data.texts import LONGEST_CELL
from glassworks.errors import DataError

ALIASES = {
    "file": ("file_name", "filename", "filepath", "file_path", "image", "image_name", "image_file", "image_path",
             "path", "img", "img_path", "audio", "audio_file", "audio_path", "clip", "wav"),
    "caption": ("text", "texts", "title", "comment", "description", "sentence", "sentences", "raw", "prompt",
                "transcript", "transcription"),
    "text": ("content", "document", "body"),
    "split": (),
    "speaker": ("speaker_id", "spk", "client_id"),
}  # fmt: skip
"""Other names of the columns file, caption, text and split, in any case, with or without a number at the end."""
SEPARATORS = (",", ";", "\t", "|")
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
IMAGE_NAME = re.compile(r"[^\"]*\.(jpe?g|jfif|jpe|png|webp|gif|tiff?|bmp|avif|heic)", re.IGNORECASE)
TOKEN_ROW = re.compile(r"([^\t]+)#(\d+)\t(.*)", re.DOTALL)
MOST_LINES = 1_000
"""Lines of one quoted cell."""
BATCH = 1 << 14


class Row(NamedTuple):
    """A row by role."""

    where: str
    """Table and physical line, entry or row."""
    file: Any
    captions: list[Any]
    split: Any
    speaker: Any = None


@dataclass(frozen=True)
class Layout:
    """How to read a table: settings of the user, and what the source needs."""

    key: str
    """The place of the settings, for messages: `params.yaml: datasets.NAME`."""
    roles: tuple[str, ...] = ("file", "caption")
    """Columns that a row must have."""
    optional: tuple[str, ...] = ("split",)
    """Columns that a row may have: split, speaker."""
    columns: Mapping[str, str | list[str]] | None = None
    """Names of columns by role, as the user set them."""
    separator: str | None = None
    encoding: str | None = None
    is_file: Callable[[str], bool] = lambda name: False
    """Whether a cell names a file of the data set."""

    @property
    def text(self) -> str:
        """The role of the texts."""
        return self.roles[-1]

    @property
    def expected(self) -> str:
        """What a table must hold, in words."""
        return f"a CSV, JSONL or parquet table with the columns {' and '.join(self.roles)} (or {self.text}s)"


Item = Row | Dropped | Remark


def read_rows(path: Path, name: str, layout: Layout) -> Iterator[Item]:
    """The rows of a table, whose `name` messages use. Raises `DataError` for a table that is not one."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 12)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{path}: no such file; expected {layout.expected}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not head.strip():
        raise DataError(f"{path}: the file is empty; expected {layout.expected}")
    if head.startswith(b"PAR1"):
        yield from _parquet(path, name, layout)
        return
    kind = None if image_extension(head) == "bmp" else describe(head)  # a table may begin with BM
    if kind and "JSON" not in kind:
        raise DataError(f"{path}: it is {kind}; expected {layout.expected}")
    encoding = layout.encoding or _encoding(head)
    if encoding not in ("utf-8", "utf-8-sig") and layout.encoding is None:
        yield Remark(f"a table is read as {encoding.upper()}, as its first bytes say", name)
    lines = _lines(path, encoding, layout)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _json_lines(path, name, lines, layout)
    elif path.suffix.lower() == ".json":
        yield from _json_array(path, name, "".join(text for _, text in lines), layout)
    elif path.suffix.lower() == ".token" or TOKEN_ROW.fullmatch(head.partition(b"\n")[0].decode(errors="replace")):
        yield from _token_rows(name, lines)
    else:
        yield from _csv(path, name, lines, layout)


def numbered_lines(path: Path, layout: Layout, expected: str) -> Iterator[tuple[int, str]]:
    """The physical lines of a text file, numbered from 1. Raises `DataError` with the `expected` content."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 12)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{path}: no such file; expected {expected}") from None
    if not head.strip():
        raise DataError(f"{path}: the file is empty; expected {expected}")
    return _lines(path, layout.encoding or _encoding(head), layout)


def _encoding(head: bytes) -> str:
    """The encoding by the first bytes: the mark, or zeros at every second byte; else UTF-8."""
    for mark, encoding in BOMS:
        if head.startswith(mark):
            return encoding
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if head[start::2].count(0) > len(head) // 4 and not head[1 - start :: 2].count(0):
            return encoding
    return "utf-8"


def _lines(path: Path, encoding: str, layout: Layout) -> Iterator[tuple[int, str]]:
    """Physical lines, numbered from 1, with the end of each line. Only a line feed ends a line, or a lone carriage return in a file without line feeds."""
    newline = "\n"
    try:
        with path.open(encoding=encoding, newline=newline) as file:
            first = file.read(1 << 16)
            if "\r" in first and "\n" not in first:
                newline = "\r"
        with path.open(encoding=encoding, newline=newline) as file:
            yield from enumerate(file, start=1)
    except LookupError:
        raise DataError(f"{layout.key}.encoding: Python knows no encoding {encoding!r}") from None
    except UnicodeError as error:
        raise DataError(f"{path}: {_undecodable(path, encoding, error)}; convert it to UTF-8") from None


def _undecodable(path: Path, encoding: str, error: UnicodeError) -> str:
    if encoding not in ("utf-8", "utf-8-sig"):
        return f"not text in {encoding} ({error})"
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as fault:
                byte = line[fault.start]
                guess = (
                    "" if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else "; it may be Windows-1252: set encoding: cp1252"
                )
                return f"line {number} is not UTF-8 text (byte 0x{byte:02x}){guess}"
    return "not UTF-8 text"


class _Columns:
    """Which columns of a table hold the file, the captions and the split."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self._found: dict[tuple[str, ...], dict[str, list[int]] | None] = {}

    def of(self, names: tuple[str, ...]) -> dict[str, list[int]]:
        """The positions of each role. Raises `DataError` with the columns found."""
        positions, fault = self._positions(names)
        if fault:
            raise DataError(f"{self.path}: {fault}")
        return positions

    def of_row(self, names: tuple[str, ...]) -> dict[str, list[int]] | None:
        """The positions of each role in an object of JSON; None if one is missing."""
        if names not in self._found:
            positions, fault = self._positions(names)
            if fault and "missing" not in fault:
                raise DataError(f"{self.path}: {fault}")
            self._found[names] = None if fault else positions
        return self._found[names]

    def _positions(self, names: tuple[str, ...]) -> tuple[dict[str, list[int]], str]:
        found: dict[str, list[int]] = {}
        set_by_user = self.layout.columns or {}
        shown = ", ".join(names) or "none"
        for role in (*self.layout.roles, *self.layout.optional):
            given = set_by_user.get(role)
            wanted = [given] if isinstance(given, str) else given or []
            if missing := [name for name in wanted if name not in names]:
                key = f"{self.layout.key}.columns.{role}"
                return {}, f"{key}: missing column {missing[0]!r}{nearest(missing[0], list(names))}"
            several = role == self.layout.text
            at = [i for i, name in enumerate(names) if name in wanted] if wanted else _guess(names, role, several)
            distinct = sorted({re.sub(r"[ _-]?\d+$", "", names[i].strip().casefold()) for i in at})
            if len(distinct) > 1 and not wanted and not set(distinct) <= {role, f"{role}s"}:
                return {}, f"several columns may be the {role} ({', '.join(distinct)}); set {self._remedy(names)}"
            if len(at) > 1 and not several:
                return {}, f"the column {names[at[0]]!r} comes twice (columns {at[0] + 1} and {at[1] + 1})"
            if not at and role in self.layout.roles:
                return {}, (
                    f"missing column {role}; columns found: {shown}; expected {self.layout.expected}, "
                    f"or set {self._remedy(names)}"
                )
            found[role] = at
        return found, ""

    def _remedy(self, names: tuple[str, ...]) -> str:
        return f"{self.layout.key}.columns: {{{', '.join(f'{role}: …' for role in self.layout.roles)}}}"


def _guess(names: tuple[str, ...], role: str, several: bool) -> list[int]:
    """The columns of a role: its own name first, then its aliases; a text column may be numbered."""
    plain = [name.strip().casefold() for name in names]
    number = r"([ _-]?\d+)?" if several else ""
    for aliases in ((role, f"{role}s"), ALIASES[role]):
        pattern = re.compile(f"({'|'.join(map(re.escape, aliases))}){number}") if aliases else None
        if pattern and (at := [i for i, name in enumerate(plain) if pattern.fullmatch(name)]):
            return at
    return []


# CSV


def _csv(path: Path, name: str, lines: Iterator[tuple[int, str]], layout: Layout) -> Iterator[Item]:
    columns = _Columns(path, layout)
    header: list[str] | None = None
    for _, line in lines:
        if line.strip():
            separator, header = _header(columns, line)
            break
    assert header is not None
    if separator != (layout.separator or ","):
        yield Remark(f"a table is read with the separator {separator!r}, as its header says", name)
    at = columns.of(tuple(header))
    if found := _other_names(header, at, layout):
        yield Remark(f"columns are read by similar names: {found}", name)
    files, texts, splits, speakers = (at.get(role, []) for role in ("file", layout.text, "split", "speaker"))
    count, rows = len(header), 0

    def is_row(line: str) -> bool:
        cells = _parse(line, separator)
        if not isinstance(cells, list) or len(cells) != count or not files:
            return False
        cell = cells[files[0]].strip()
        return bool(cell) and (IMAGE_NAME.fullmatch(cell) is not None or layout.is_file(cell))

    for number, cells in _csv_records(lines, separator, is_row):
        where = f"{name} line {number}"
        rows += 1
        if isinstance(cells, str):
            yield Dropped(where, cells)
        elif len(cells) != count:
            yield Dropped(where, f"another number of cells than the header has: {len(cells)} instead of {count}")
        elif max(map(len, cells)) > LONGEST_CELL:
            yield Dropped(where, f"a cell is longer than {LONGEST_CELL:,} characters")
        else:
            yield Row(
                where,
                cells[files[0]] if files else None,
                [cells[i] for i in texts],
                cells[splits[0]] if splits else None,
                cells[speakers[0]] if speakers else None,
            )
    if not rows:
        raise DataError(f"{path}: the table has a header and no rows")


def _header(columns: _Columns, line: str) -> tuple[str, list[str]]:
    """The separator and the names of the header; the first separator that gives every column."""
    given = columns.layout.separator
    split = {}
    for separator in [given] if given else SEPARATORS:
        cells = _parse(line.rstrip("\r\n"), separator)
        split[separator] = (
            [cell.strip().strip("\ufeff") for cell in cells] if isinstance(cells, list) else [line.strip()]
        )
        if not columns._positions(tuple(split[separator]))[1]:
            return separator, split[separator]
    separator = given or max(SEPARATORS, key=lambda one: (len(split[one]), -SEPARATORS.index(one)))
    return separator, split[separator]


def _other_names(header: list[str], at: dict[str, list[int]], layout: Layout) -> str:
    """The columns that were found by an alias, in words."""
    if any((layout.columns or {}).values()):
        return ""
    return ", ".join(
        f"{header[i]} as {role}"
        for role, positions in at.items()
        for i in positions[:1]
        if header[i] not in (role, f"{role}s")
    )


def _csv_records(
    lines: Iterator[tuple[int, str]], separator: str, is_row: Callable[[str], bool]
) -> Iterator[tuple[int, list[str] | str]]:
    """The line of each record and its cells, or the reason why it has none. Reads on after the line of a fault."""
    waiting: deque[tuple[int, str]] = deque()

    def following() -> tuple[int, str] | None:
        return waiting.popleft() if waiting else next(lines, None)

    while (one := following()) is not None:
        number, line = one
        text = line.rstrip("\r\n") if line.endswith(("\r\n", "\n", "\r")) else line
        if not text.strip():
            continue
        if '"' not in text:
            yield number, text.split(separator)
            continue
        cells = _parse(text, separator)
        if cells is not None:
            yield number, cells
            continue
        taken, parts, fault = list[tuple[int, str]](), [line], ""
        while not fault:
            more = following()
            if more is None or len(taken) == MOST_LINES:
                fault = f"the quote that opens here is never closed (up to line {taken[-1][0] if taken else number})"
                waiting.extendleft([more] if more else [])
                break
            taken.append(more)
            parts.append(more[1])
            if '"' not in more[1]:
                if is_row(more[1].rstrip("\r\n")):
                    fault = _swallowed(number, more[0])
                continue
            cells = _parse("".join(parts).rstrip("\r\n"), separator)
            if isinstance(cells, str):
                fault = cells
            elif cells is not None:
                hidden = next((k for k, part in _inner_lines(cells) if is_row(part)), None)
                if hidden is None:
                    break
                fault = _swallowed(number, number + hidden)
            elif is_row(more[1].rstrip("\r\n")):
                fault = _swallowed(number, more[0])
        if fault:
            waiting.extendleft(reversed(taken))
            yield number, fault
        else:
            assert isinstance(cells, list)
            yield number, cells


def _swallowed(number: int, other: int) -> str:
    return f"the quote that opens here takes in a row: lines {number} and {other}; close it, or double a quote inside quotes"


def _inner_lines(cells: list[str]) -> Iterator[tuple[int, str]]:
    """The lines of the cells after the first, with their distance from the first."""
    before = 0
    for cell in cells:
        for part in cell.split("\n")[1:]:
            before += 1
            yield before, part.rstrip("\r")


def _parse(text: str, separator: str) -> list[str] | str | None:
    """The cells of one record; None if a quote is still open; the reason, as text, if it is not CSV."""
    if '"' not in text:
        return text.split(separator)
    try:
        (cells,) = csv.reader([text], delimiter=separator, strict=True)
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
        if "field larger" in str(error):
            return f"a cell is longer than {LONGEST_CELL:,} characters"
        return f"not CSV ({error})"
    except ValueError:
        return "not CSV (no record)"
    return cells


# JSON


def _object(where: str, row: Any, columns: _Columns) -> Row | Dropped:
    """The row of an object."""
    if not isinstance(row, dict):
        return Dropped(where, "not a JSON object")
    layout, names = columns.layout, tuple(row)
    at = columns.of_row(names)
    if at is None:
        return Dropped(where, f"no {' or '.join(layout.roles)} is named (found: {', '.join(names)[:200] or 'nothing'})")
    values = list(row.values())
    captions: list[Any] = []
    for i in at[layout.text]:
        captions += values[i] if isinstance(values[i], list) else [values[i]]
    file = values[at["file"][0]] if "file" in at else None
    split, speaker = (values[at[role][0]] if at.get(role) else None for role in ("split", "speaker"))
    return Row(where, file, captions, split, speaker)


def _objects(path: Path, found: Iterator[tuple[str, Any]], layout: Layout) -> Iterator[Item]:
    """The rows of objects. Raises `DataError` if none has the columns."""
    columns, rows, keys = _Columns(path, layout), 0, Counter[str]()
    for where, value in found:
        item = value if isinstance(value, Dropped) else _object(where, value, columns)
        if isinstance(item, Row):
            rows += 1
            at = columns.of_row(tuple(value)) if rows == 1 else None
            if at and (similar := _other_names(list(value), at, layout)):
                yield Remark(f"columns are read by similar names: {similar}", where)
        elif isinstance(value, dict):
            keys.update(list(value))
        yield item
    if not rows and keys:
        shown = ", ".join(key for key, _ in keys.most_common(12))
        raise DataError(
            f"{path}: keys found in its JSON objects: {shown}; expected {layout.expected}, or set {columns._remedy(())}"
        )


def _json_lines(path: Path, name: str, lines: Iterator[tuple[int, str]], layout: Layout) -> Iterator[Item]:
    def found() -> Iterator[tuple[str, Any]]:
        first = True
        for number, line in lines:
            text = line.strip()
            if not text:
                continue
            where = f"{name} line {number}"
            try:
                if first and text.startswith("["):
                    raise DataError(
                        f"{path}: line {number} begins a JSON array, and a .jsonl has one object a line; "
                        f"rename it to .json, or write one object a line"
                    )
                value = parse_json(text)
            except NotJSON as error:
                value = Dropped(where, str(error))
            first = False
            yield where, value

    yield from _objects(path, found(), layout)


def _json_array(path: Path, name: str, text: str, layout: Layout) -> Iterator[Item]:
    try:
        entries = parse_json(text)
    except NotJSON as error:
        hint = ""
        if "Extra data" in str(error):
            hint = "; one object a line is JSONL: rename it to .jsonl"
        raise DataError(f"{path}: {error}{hint}; expected {layout.expected}") from None
    if not isinstance(entries, list):
        keys = ", ".join(list(entries)[:12]) if isinstance(entries, dict) else type(entries).__name__
        raise DataError(f"{path}: its JSON is no array of objects (found: {keys}); expected {layout.expected}")
    yield from _objects(path, ((f"{name} entry {n}", entry) for n, entry in enumerate(entries, start=1)), layout)


# Others


def _token_rows(name: str, lines: Iterator[tuple[int, str]]) -> Iterator[Item]:
    """Flickr's rows `1000.jpg#0<tab>caption`, without a header and without quoting."""
    for number, line in lines:
        if not line.strip():
            continue
        found, where = TOKEN_ROW.fullmatch(line.rstrip("\r\n")), f"{name} line {number}"
        if found is None:
            yield Dropped(where, f"no row of Flickr's form NAME#NUMBER<tab>CAPTION: {line.strip()[:80]!r}")
        else:
            yield Row(where, found.group(1), [found.group(3)], None)


def _parquet(path: Path, name: str, layout: Layout) -> Iterator[Item]:
    try:
        file = pq.ParquetFile(path)
        names = tuple(file.schema_arrow.names)
        columns = _Columns(path, layout)
        at = columns.of(names)
        used = sorted({i for positions in at.values() for i in positions})
        for i in used:
            kind = file.schema_arrow.field(i).type
            if pa.types.is_binary(kind) or pa.types.is_struct(kind):
                raise DataError(
                    f"{path}: the column {names[i]!r} holds {kind}; images inside parquet are not read: "
                    f"write them to files and name these in the column"
                )
        if found := _other_names(list(names), at, layout):
            yield Remark(f"columns are read by similar names: {found}", name)
        number = 0
        for batch in file.iter_batches(BATCH, columns=[names[i] for i in used]):
            values = {i: batch.column(names[i]).to_pylist() for i in used}
            for k in range(batch.num_rows):
                number += 1
                captions: list[Any] = []
                for i in at[layout.text]:
                    captions += values[i][k] if isinstance(values[i][k], list) else [values[i][k]]
                given = values[at["file"][0]][k] if "file" in at else None
                split, speaker = (values[at[role][0]][k] if at.get(role) else None for role in ("split", "speaker"))
                yield Row(f"{name} row {number}", given, captions, split, speaker)
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path}: not a parquet file that can be read ({str(error).splitlines()[0]})") from None
    if not number:
        raise DataError(f"{path}: the table has no rows")


def read_bytes(path: Path, expected: str) -> bytes:
    """The bytes of a file that is needed, without a byte order mark. Raises `DataError` with the `expected` content."""
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{path}: no such file; expected {expected}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from None
