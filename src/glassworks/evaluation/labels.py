"""labels.json: how the report shows metrics.json and items.jsonl, so that it needs to know no task.

Values are named by JSON pointers (RFC 6901) into metrics.json. A value is a number, or an interval {"value", "low", "high"} whose numbers may all be null.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings

METRICS, LABELS, ITEMS, GALLERY = "metrics.json", "labels.json", "items.jsonl", "gallery"
"""Files of an evaluation, and the folder of its media."""


class Column(Settings):
    """A metric: one column of the table, one panel of the figure."""

    name: str
    """Name in plots/scores.tsv."""
    title: str
    """Heading."""
    explanation: str = ""
    """One line that says how the metric is computed."""
    group: str = ""
    """Heading over neighbouring columns of the same group."""
    phrase: str = ""
    """Name of the metric inside a sentence; the title by default."""
    scale: float = 1.0
    """Factor before printing: 100 for fractions that papers print as percentages."""
    digits: int = 3
    """Digits after the point."""
    unit: str = ""
    """Printed after the number in a tile."""
    lower_is_better: bool = False
    """Whether smaller values are better."""
    drawn: bool = False
    """Whether the figure has a panel for it."""


class Row(Settings):
    """A system: one row of the table."""

    name: str
    """Name in plots/scores.tsv."""
    title: str
    """Heading."""
    explanation: str = ""
    """One line that says how the system answers."""
    control: bool = False
    """Whether the system is there to bound the meaning of the scores."""
    cells: dict[str, str]
    """JSON pointer of each value, by column; a value that metrics.json lacks is shown as a dash."""


class Table(Settings):
    """Scores of systems."""

    title: str = "Scores"
    """Heading."""
    columns: list[Column]
    """In the order shown."""
    rows: list[Row]
    """In the order shown; controls last."""
    first: str
    """The row that stands for the model in sentences."""
    controls: str = "Controls"
    """Heading of the rows that are controls."""
    verdict: list[str] = Field(default=[])
    """Columns on which the row `first` is compared with its best control; the first column with values is used."""
    notes: list[str] = Field(default=[])
    """Sentences below the table."""

    def column(self, name: str) -> Column:
        """The column of a name; a `KeyError` if there is none."""
        return {column.name: column for column in self.columns}[name]

    def row(self, name: str) -> Row:
        """The row of a name; a `KeyError` if there is none."""
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
    """A number at the head of the experiment."""

    value: str
    """JSON pointer of the value."""


class Gallery(Settings):
    """Items that are media with answers beside them. The files are in the folder gallery/, named by key."""

    kind: Literal["gallery"] = "gallery"
    """Kind of items."""
    title: str
    """Heading."""
    truth: str
    """Field of an item that holds the true answers, a list of texts."""
    answers: list[tuple[str, str]]
    """Answers in the order shown: the field of an item that holds the text, and its title."""
    marks_in: str = ""
    """Field of an item that maps an answer's name to its marks."""
    marks: list[str] = Field(default=[])
    """Names of marks: true, false, or null where the question does not arise."""
    counted: str = ""
    """The mark that a sentence over the gallery counts."""
    counted_for: str = ""
    """The answer whose marks it counts."""
    counted_as: str = ""
    """End of that sentence: `3 of these 60 captions (greedy) ...`."""


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


class Labels(Settings):
    """The content of labels.json."""

    unit: str
    """Noun for the scored samples, in the plural: images, texts."""
    tiles: list[Tile] = Field(default=[])
    """Numbers at the head of the experiment."""
    table: Table | None = None
    """Scores of systems."""
    items: Gallery | Texts | None = None
    """How items.jsonl is shown."""


def look_up(metrics: Any, pointer: str) -> Any:
    """The value at a JSON pointer, or None where there is none."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(metrics, dict) or name not in metrics:
            return None
        metrics = metrics[name]
    return metrics


def pointer(*names: str) -> str:
    """The JSON pointer through objects by these names."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)
