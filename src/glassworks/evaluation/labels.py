"""labels.json: the presentation of metrics.json and items.jsonl in the report, so that the report depends on no task.

JSON pointers (RFC 6901) into metrics.json identify values. A value is a number or an interval {"value", "low", "high"}. The numbers of an interval
may all be null.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings

METRICS, LABELS, ITEMS, GALLERY = "metrics.json", "labels.json", "items.jsonl", "gallery"
"""Files of an evaluation, and the folder of its media."""


class Column(Settings):
    """A metric: one column of the table and one panel of the figure."""

    name: str
    """Name in plots/scores.tsv."""
    title: str
    """Heading."""
    explanation: str = ""
    """One-line description of the computation of the metric."""
    group: str = ""
    """Common heading of neighbouring columns."""
    phrase: str = ""
    """Name of the metric within a sentence; defaults to the title."""
    scale: float = 1.0
    """Factor applied before printing: 100 for fractions that papers print as percentages."""
    digits: int = 3
    """Digits after the decimal point."""
    unit: str = ""
    """Unit printed after the number in a tile."""
    lower_is_better: bool = False
    """Whether smaller values are better."""
    drawn: bool = False
    """Whether the figure has a panel for this metric."""


class Row(Settings):
    """A system: one row of the table."""

    name: str
    """Name in plots/scores.tsv."""
    title: str
    """Heading."""
    explanation: str = ""
    """One-line description of the system."""
    control: bool = False
    """Whether the system is a control, to which the model is compared."""
    cells: dict[str, str]
    """JSON pointers to the values, by column. A value missing from metrics.json is shown as a dash."""


class Table(Settings):
    """Scores of several systems."""

    title: str = "Scores"
    """Heading."""
    columns: list[Column]
    """Columns, in the order shown."""
    rows: list[Row]
    """Rows, in the order shown; controls last."""
    first: str
    """Name of the row that represents the model in sentences."""
    controls: str = "Controls"
    """Heading of the control rows."""
    verdict: list[str] = Field(default=[])
    """Columns for comparing the row `first` with its best control. The first column with values is used."""
    notes: list[str] = Field(default=[])
    """Sentences below the table."""

    def column(self, name: str) -> Column:
        """The column with this name. Raises `KeyError` if there is none."""
        return {column.name: column for column in self.columns}[name]

    def row(self, name: str) -> Row:
        """The row with this name. Raises `KeyError` if there is none."""
        return {row.name: row for row in self.rows}[name]

    @model_validator(mode="after")
    def _names_exist(self) -> "Table":
        columns = {column.name for column in self.columns}
        used = {name for row in self.rows for name in row.cells} | set(self.verdict)
        if unknown := sorted(used - columns):
            raise ValueError(f"no column is called {', '.join(unknown)}")
        if self.first not in {row.name for row in self.rows}:
            raise ValueError(f"no row is called {self.first}")
        return self


class Tile(Column):
    """A number at the top of the section of an experiment."""

    value: str
    """JSON pointer to the value."""


class Curve(Settings):
    """Metrics of the table over a number that some of its rows have."""

    title: str
    """Heading."""
    x_title: str
    """Name of the number; its axis is logarithmic."""
    rows: dict[str, float]
    """The number of each row, by name."""
    columns: list[str]
    """Names of the columns, one line each, called by the group of the column."""


class Gallery(Settings):
    """Items that are images, sounds or questions, with answers. The media files are in the folder gallery/, named by key."""

    kind: Literal["gallery"] = "gallery"
    """Kind of items."""
    title: str
    """Heading."""
    question: str = ""
    """Field of an item that holds the text of a question; empty for items that are media."""
    truth: str
    """Field of an item that holds the true answers, a list of texts."""
    answers: list[tuple[str, str]]
    """Answers in the order shown: the field of an item that holds the text, and the title of the answer."""
    marks_in: str = ""
    """Field of an item that maps the name of an answer to its marks."""
    marks: list[str] = Field(default=[])
    """Names of the marks. A mark is true, false, or null if it does not apply."""
    counted: str = ""
    """Mark that the sentence above the gallery counts."""
    counted_for: str = ""
    """Answer whose marks the sentence counts."""
    counted_as: str = ""
    """End of the sentence: `3 of these 60 captions (greedy) ...`."""


class Texts(Settings):
    """Items that are generated texts."""

    kind: Literal["texts"] = "texts"
    """Kind of items."""
    title: str
    """Heading."""
    label: str
    """Field of an item shown beside the text."""
    prompt: str = ""
    """Field of an item that the text continues."""
    text: str
    """Field of an item that holds the text."""
    preformatted: bool = False
    """Whether the text has lines of its own, in characters of one width."""


class Labels(Settings):
    """The content of labels.json."""

    unit: str
    """Plural noun for the scored samples: images, texts."""
    tiles: list[Tile] = Field(default=[])
    """Numbers at the top of the section of the experiment."""
    table: Table | None = None
    """Table of the scores of all systems."""
    curve: Curve | None = None
    """Figure of metrics of the table over a number, such as the width of the vectors."""
    items: Gallery | Texts | None = None
    """Presentation of items.jsonl."""


def look_up(metrics: Any, pointer: str) -> Any:
    """The value at a JSON pointer; None if there is none."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(metrics, dict) or name not in metrics:
            return None
        metrics = metrics[name]
    return metrics


def pointer(*names: str) -> str:
    """The JSON pointer with these names as its path."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)
