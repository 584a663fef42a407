"""One entrance for text: every caption and document of every source passes `clean_text`.

Text stays as it is, HTML and control tokens included. Only white space and byte order marks at its ends are removed.
"""

import math
import unicodedata
from typing import Any

LONGEST_CELL = 131_072
"""Characters of a cell of a table. A longer one is a broken row more often than a caption."""
MISSING = frozenset(
    [
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    ]
)
"""Texts that pandas writes or reads for a missing value."""
BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters without ink that Unicode counts as letters, marks or symbols."""


class UnusableText(ValueError):
    """A text that cannot be used. `str(error)` is the reason, without the text."""


def clean_text(given: Any) -> str:
    """The text without white space and byte order marks at its ends. Raises `UnusableText`."""
    if not isinstance(given, str):
        missing = given is None or (isinstance(given, float) and math.isnan(given))
        raise UnusableText("no caption" if missing else f"the caption is not text (found: {type(given).__name__})")
    text = given.strip()
    if text.startswith("\ufeff") or text.endswith("\ufeff"):
        text = text.strip("\ufeff \t\r\n")
    if not text:
        raise UnusableText("no caption")
    if text in MISSING:
        raise UnusableText(f"the caption is a missing value (found: {text})")
    if text.isascii() and text.isprintable():
        return text
    if "\0" in text:
        raise UnusableText("the caption holds a NUL character")
    if not is_unicode(text):
        raise UnusableText("the caption holds half of a character (a lone surrogate, such as a cut emoji)")
    if not any(map(has_ink, text)):
        raise UnusableText("the caption has no visible character")
    return text


def clean_texts(given: list[Any]) -> tuple[list[str], list[str]]:
    """The usable texts, and the reasons why others are not."""
    texts, reasons = [], []
    for one in given:
        try:
            texts.append(clean_text(one))
        except UnusableText as fault:
            reasons.append(str(fault))
    return texts, reasons


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    r"""The text with lone surrogates as \udcXX, so that it can be written anywhere."""
    return text.encode(errors="backslashreplace").decode()


def has_ink(character: str) -> bool:
    """Whether a character is visible."""
    if character in BLANK_LETTERS or "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef":
        return False
    return unicodedata.category(character)[0] not in "CZ"
