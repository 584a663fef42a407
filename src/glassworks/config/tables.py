"""Settings of a table in a user's folder."""

from typing import Annotated

from pydantic import Field

from glassworks.config.base import Settings

Column = Annotated[str, Field(min_length=1)]


class ImageColumns(Settings):
    """Names of the columns (CSV, parquet) or keys (JSON) of a table. null finds usual names and says which."""

    file: Column | None = None
    """The image's file name."""
    caption: Column | list[Column] | None = None
    """The caption, or several columns with one caption each."""
    split: Column | None = None
    """train, validation (or val) or test, or empty."""


class SoundColumns(Settings):
    """Names of the columns (CSV, parquet) or keys (JSON) of a table. null finds usual names and says which."""

    file: Column | None = None
    """The file name of the sound."""
    caption: Column | list[Column] | None = None
    """The transcript, or several columns with one text each."""
    split: Column | None = None
    """train, validation (or val) or test, or empty."""
    speaker: Column | None = None
    """The speaker, whose sounds share a split."""


class TextColumns(Settings):
    """Names of the columns (CSV, parquet) or keys (JSON) of a table. null finds usual names and says which."""

    text: Column | list[Column] | None = None
    """The text, or several columns with one text each."""
    split: Column | None = None
    """train, validation (or val) or test, or empty."""


class TableFormat(Settings):
    """How the bytes of a CSV are read."""

    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Character between the cells of a CSV; null finds a comma, semicolon, tab or | by the header."""
    encoding: str | None = None
    """Encoding of tables, such as cp1252; null reads UTF-8, and UTF-16 by its first bytes."""
