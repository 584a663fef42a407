"""Dependencies of datasets and experiments by name; the stage table resolves each need to an input stage."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """One input artefact, by its name in the YAML file."""

    key: str
    """Key path in the YAML file, for error messages."""
    name: str
    """Name of a dataset, of an entry under `weights` or `encoders`, or of an experiment."""


class Shards(Need):
    """The shards of a dataset."""


@dataclass(frozen=True)
class Records(Need):
    """The records and raw files of a dataset."""

    source: str
    """Required `source` of the dataset."""


class Weights(Need):
    """Published weights."""


@dataclass(frozen=True)
class Model(Need):
    """The trained model of an experiment, or published weights."""

    task: str
    """Required `task` of the experiment."""


@dataclass(frozen=True)
class Initial(Model):
    """The trained model of an experiment, whose weights another training starts with."""

    others: tuple[str, ...] = ()
    """Further tasks that the experiment may have."""


class Encoding(Need):
    """An artefact of an entry under `encoders` in params.yaml, which `name` names."""


@dataclass(frozen=True)
class Features(Encoding):
    """The features of a dataset."""

    dataset: str


class EncoderWeights(Encoding):
    """The published weights of an encoder that runs during training."""


class Tokenizer(Need):
    """The tokenizer of an experiment or of published weights."""


def roles(role: str, names: Iterable[str]) -> dict[str, str]:
    """The role of each input of a kind, by name: `role` itself for a single name, else `ROLE.NAME`."""
    distinct = list(dict.fromkeys(names))
    return {name: role if len(distinct) == 1 else f"{role}.{name}" for name in distinct}
