"""Settings of the training and evaluation data of an experiment: a mixture of datasets, held-out sets and the tokenizer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal

from pydantic import Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer, model_validator
from typing_extensions import TypeVar

from glassworks.config.base import Name, Settings
from glassworks.config.needs import Need, Shards, roles
from glassworks.config.needs import Tokenizer as TokenizerOf

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SMALLEST_SHARE = 1 / 1000
"""Counts are exact in blocks of 1000 rows (`data.reading.order.BLOCK`)."""


class Options(Settings):
    """Options of a task for one dataset of a mixture. A task that has any defines a subclass; `example` receives it."""


class LossOptions(Options):
    """Options of a task whose loss is a sum over tokens."""

    loss_weight: Rate = 1.0
    """Factor of the training loss of every token. The loss is still divided by the number of tokens; validation ignores the factor."""


O_co = TypeVar("O_co", bound=Options, covariant=True, default=Options)


class _Generic(Settings):
    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """`Part[LossOptions]` is called LossPart."""
        return params[0].__name__.removesuffix("Options") + cls.__name__

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if cls.__doc__ is None and cls.__base__ is not None:  # the description in the JSON Schema
            cls.__doc__ = cls.__base__.__doc__


class Part(_Generic, Generic[O_co]):
    """A dataset of a mixture."""

    dataset: Name
    """Name of a dataset in params.yaml."""
    rate: Rate | None = None
    """Rate of its rows, relative to the other rates of the list. Give a rate to all entries, or to none for equal rates."""
    options: O_co = Field(default={}, validate_default=True)
    """Options of the task for this dataset."""


class Group(_Generic, Generic[O_co]):
    """Datasets of a mixture that share one rate."""

    group: Annotated[list[Part[O_co]], Field(min_length=1)]
    """The datasets."""
    rate: Rate | None = None
    """Rate of the rows of the whole group, relative to the other rates of the list."""
    rates: Literal["sqrt"] | None = None
    """`sqrt`: the rates in the group are proportional to the square root of the training rows. null: the datasets have rates of their own."""

    @model_validator(mode="after")
    def _rates_from_one_place(self) -> "Group[O_co]":
        if self.rates and any(part.rate is not None for part in self.group):
            raise ValueError(f"rates: {self.rates} computes the rates of the group; remove the rates of its datasets")
        return self


def _entry(value: Any) -> str:
    has_group = "group" in value if isinstance(value, dict) else isinstance(value, Group)
    return "group=" if has_group else "dataset="


class Tokenizer(Settings):
    """The tokenizer: trained on the training split, or reused from another experiment or published weights."""

    kind: Literal["bpe", "characters"] = "bpe"
    """`bpe`: byte-level BPE, which encodes any text. `characters`: one token per character of the training split."""
    vocab_size: Annotated[int, Field(ge=260, le=200_000)] = 1024
    """Size of the BPE vocabulary, including the 256 bytes and the special tokens."""
    added_tokens: list[Annotated[str, Field(min_length=1)]] = Field(default=[], exclude_if=lambda added: not added)
    """Strings that are one token each wherever they occur, such as markup, beside the `vocab_size` tokens of BPE."""
    datasets: list[Name] = Field(default=[], exclude_if=lambda names: not names)
    """Further data sets whose training texts the tokenizer is trained on, such as those of experiments that continue this one."""
    of: str | None = None
    """Reuse the tokenizer of another experiment or of an entry under `weights` in params.yaml. Excludes the other keys."""

    @model_validator(mode="after")
    def _one_way(self) -> "Tokenizer":
        if self.of is not None and self.model_fields_set & {"kind", "vocab_size", "added_tokens", "datasets"}:
            raise ValueError(
                "of: a tokenizer that is taken over has its own kind, vocab_size, added_tokens and datasets; remove them"
            )
        if self.kind == "characters" and self.added_tokens:
            raise ValueError(
                "added_tokens: a tokenizer of characters has one token for each character; remove them or take kind bpe"
            )
        if len(set(self.added_tokens)) < len(self.added_tokens):
            raise ValueError("added_tokens: the same string twice; remove one")
        return self

    @model_serializer(mode="wrap")
    def _only_what_holds(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"of": self.of} if self.of else write(self)


class Data(_Generic, Generic[O_co]):
    """Training and evaluation data: one dataset, or a mixture of several."""

    dataset: Name | None = None
    """Name of a dataset in params.yaml: short for `train` with one dataset."""
    options: O_co = Field(default={}, validate_default=True)
    """Options of the task for `dataset`, and for datasets that are validated or evaluated but not in `train`."""
    train: list[
        Annotated[
            Annotated[Part[O_co], Tag("dataset=")] | Annotated[Group[O_co], Tag("group=")],
            Discriminator(_entry),
        ]
    ] = Field(default=[])
    """Mixture of datasets: each with its rate, alone or in a group."""
    held_out: dict[Name, Literal["validation", "test"]] | None = None
    """Held-out sets: the split to validate, by dataset. null validates the validation split of every training dataset that has one."""

    @model_validator(mode="after")
    def _a_mixture(self) -> "Data[O_co]":
        if (self.dataset is None) == (not self.train):
            raise ValueError("give either `dataset: NAME`, or `train` with a list of datasets")
        for name in (names := self.datasets):
            if names.count(name) > 1:
                raise ValueError(
                    f"train: the dataset {name!r} is listed twice; list it once, with the sum of its rates"
                )
        groups = [entry for entry in self.train if isinstance(entry, Group)]
        for rates in ([entry.rate for entry in self.train], *([part.rate for part in group.group] for group in groups)):
            if None in rates and any(rates):
                raise ValueError("train: some rates are missing; give a rate to all entries of a list, or to none")
        computed = any(group.rates for group in groups)
        for name, rate in zip(names, () if computed else self.rates({}), strict=False):
            if rate < SMALLEST_SHARE:
                raise ValueError(f"train: {name!r} makes less than 1/1000 of the mixture; raise its rate or remove it")
        return self

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the keys that have their defaults, and a mixture of one dataset as this dataset."""
        given: dict[str, Any] = write(self)
        plain = _is_default(self.options)
        if plain and len(self.datasets) == 1 and all(_is_default(part.options) for part in self.parts.values()):
            given |= {"dataset": self.datasets[0], "train": []}
        unused = {"options": plain, **{key: not given[key] for key in ("dataset", "train")}}
        unused["held_out"] = self.held_out is None
        return {key: value for key, value in given.items() if not unused.get(key)}

    @property
    def parts(self) -> "dict[str, Part[O_co]]":
        """The training datasets in order, by the key path of their names in the file."""
        if self.dataset is not None:
            return {"data.dataset": Part(dataset=self.dataset, options=self.options)}
        return dict(self._listed())

    def _listed(self) -> "Iterator[tuple[str, Part[O_co]]]":
        for index, entry in enumerate(self.train):
            if isinstance(entry, Group):
                for number, part in enumerate(entry.group):
                    yield f"data.train.{index}.group.{number}.dataset", part
            else:
                yield f"data.train.{index}.dataset", entry

    @property
    def datasets(self) -> list[str]:
        """Names of the training datasets, in order."""
        return [part.dataset for part in self.parts.values()]

    @property
    def held_out_splits(self) -> Mapping[str, Literal["validation", "test"]]:
        """The split to validate, by dataset."""
        return dict.fromkeys(self.datasets, "validation") if self.held_out is None else self.held_out

    def rates(self, rows: Mapping[str, int]) -> list[float]:
        """The share of each training dataset in the rows of the mixture. `rows` holds the training rows of the datasets in groups with `sqrt`."""
        shares: list[float] = []
        for entry, share in zip(self.train, _shares([entry.rate for entry in self.train]), strict=True):
            if isinstance(entry, Group):
                own = [math.sqrt(rows[part.dataset]) if entry.rates else part.rate for part in entry.group]
                shares += [share * inner for inner in _shares(own)]
            else:
                shares.append(share)
        return shares or [1.0]

    def options_of(self, dataset: str) -> O_co:
        """The options of the task for a dataset."""
        return next((part.options for part in self.parts.values() if part.dataset == dataset), self.options)

    @property
    def shard_roles(self) -> dict[str, str]:
        """The input role of the shards of every dataset that training reads, by dataset."""
        return roles("shards", [*self.datasets, *self.held_out_splits])

    def training_needs(self, role: str) -> dict[str, Need]:
        """The shards of the training datasets by role: `role` itself for one, `ROLE.NAME` for several."""
        keys = {part.dataset: key for key, part in self.parts.items()}
        return {role: Shards(keys[name], name) for name, role in roles(role, self.datasets).items()}

    def needs(self) -> dict[str, Need]:
        """Input artefacts of training, by role."""
        keys = {name: f"data.held_out.{name}" for name in self.held_out_splits}
        keys |= {part.dataset: key for key, part in self.parts.items()}
        return {role: Shards(keys[name], name) for name, role in self.shard_roles.items()}


def _shares(rates: Sequence[float | None]) -> list[float]:
    """The rates of a list divided by their sum; equal shares without rates."""
    given = [1.0 if rate is None else rate for rate in rates]
    return [rate / sum(given) for rate in given]


def _is_default(options: Options) -> bool:
    return options == type(options).model_construct()


class TextData(Data[O_co], Generic[O_co]):
    """Training data with texts."""

    tokenizer: Tokenizer = Tokenizer()
    """The tokenizer of the texts."""

    @model_validator(mode="after")
    def _each_text_once(self) -> "TextData[O_co]":
        names = [*self.datasets, *self.tokenizer.datasets]
        if repeated := [name for name in self.tokenizer.datasets if names.count(name) > 1]:
            raise ValueError(f"tokenizer.datasets: the texts of {repeated[0]!r} are read already; remove it")
        return self

    def needs(self) -> dict[str, Need]:
        found = super().needs()
        if self.tokenizer.of:
            found["tokenizer"] = TokenizerOf("data.tokenizer.of", self.tokenizer.of)
        return found
