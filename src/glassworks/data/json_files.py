"""One entrance for JSON: every JSON that another tool wrote is parsed here."""

import json
from typing import Any

from glassworks.errors import DataError


class NotJSON(ValueError):
    """Text that is not usable JSON. `str(error)` is the reason."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises `NotJSON` with a reason of one line.

    Refuses an object that has a key twice. Numbers beyond the limits of Python and too deep nesting are named. NaN is
    read as a number, since pandas writes it; the caller decides.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}: " if error.lineno > 1 else ""
        raise NotJSON(f"not JSON ({place}{error.msg})") from None
    except UnicodeDecodeError:
        raise NotJSON("not JSON (its text is not UTF-8)") from None
    except RecursionError:
        raise NotJSON("not usable JSON (nested too deeply)") from None
    except NotJSON:
        raise
    except ValueError:  # int() of more than sys.get_int_max_str_digits() digits
        raise NotJSON("not usable JSON (a number has thousands of digits)") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: dict[str, int] = {}
        for number, (key, _) in enumerate(pairs, start=1):
            if key in seen:
                raise NotJSON(f"the key {key!r} comes twice (entries {seen[key]} and {number} of one object)")
            seen[key] = number
    return found


def is_canonical(value: Any) -> bool:
    """Whether canonical JSON and UTF-8 can hold a value: no NaN, no infinity, no lone surrogate."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def parsed(text: str | bytes, where: object, expected: str) -> Any:
    """`parse_json` of a file that is needed. Raises `DataError` with the place and the `expected` content."""
    try:
        return parse_json(text)
    except NotJSON as error:
        raise DataError(f"{where}: {error}; expected {expected}") from None
