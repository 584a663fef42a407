"""What a data set or an experiment takes from elsewhere; the stage table turns each need into an input."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """One input, by the name that the YAML file gives."""

    key: str
    """Key path in the YAML file, for messages."""
    name: str
    """A data set, an entry under `weights`, or an experiment."""


class Shards(Need):
    """The shards of a data set."""


@dataclass(frozen=True)
class Records(Need):
    """The records of a data set, and its raw files."""

    source: str
    """The source that it must have."""


class Weights(Need):
    """Published weights."""


@dataclass(frozen=True)
class Model(Need):
    """The trained model of an experiment, or published weights."""

    task: str
    """The task that the experiment must have."""


class Tokenizer(Need):
    """The tokenizer of an experiment or of published weights."""
