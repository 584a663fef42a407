"""Variants of an experiment: named overrides of its settings and seeds, each expanded to one training run."""

import copy
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, field_validator

from glassworks.config.base import Settings
from glassworks.errors import ConfigError

SEPARATOR = "--"
"""Joins experiment, variant and seed in a name. DVC allows it in the name of a stage; `Name` excludes it, so no user's name contains it."""
FIXED = {
    "evaluations": "a variant is scored like its experiment; change the evaluations of the experiment",
    "variants": "a variant has no variants",
}
"""Sections that a variant cannot override, and why."""


class Variant(Settings):
    """Some settings of the experiment overridden, and one training run for each seed."""

    set: dict[str, Any] = Field(default={})
    """Overrides: the key path in this file, such as `optimization.learning_rate`, and the value. They apply in the order written."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Seeds of initial weights, sample order and dropout, one training run each. null trains once, with the seed of params.yaml."""

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds and (twice := [seed for seed in seeds if seeds.count(seed) > 1]):
            raise ValueError(f"{twice[0]} is listed twice")
        return seeds


@dataclass(frozen=True)
class VariantRun:
    """A training run of a variant."""

    experiment: str
    variant: str
    seed: int | None
    """One of the seeds of the variant; None for the seed of params.yaml."""
    overrides: tuple[str, ...]
    """Overridden key paths."""

    @property
    def stem(self) -> str:
        """The name without the seed."""
        return f"{self.experiment}{SEPARATOR}{self.variant}"

    @property
    def name(self) -> str:
        """Name of the run in stages and folders: EXPERIMENT--VARIANT--SEED, or EXPERIMENT--VARIANT if the variant lists no seeds."""
        return self.stem if self.seed is None else f"{self.stem}{SEPARATOR}{self.seed}"


def overridden(content: dict[str, Any], overrides: dict[str, Any], where: str) -> dict[str, Any]:
    """A copy of the content of an experiment's file with overrides and without variants. Raises `ConfigError` beginning with `where`."""
    changed = copy.deepcopy({section: value for section, value in content.items() if section != "variants"})
    for path, value in overrides.items():
        *parents, last = path.split(".")
        if reason := FIXED.get([*parents, last][0]):
            raise ConfigError(f"{where}: {path}: {reason}")
        section = changed
        for depth, name in enumerate(parents, start=1):
            if section.get(name) is None:
                section[name] = {}
            section = section[name]
            if not isinstance(section, dict):
                raise ConfigError(f"{where}: {path}: {'.'.join(parents[:depth])} is a value, not a section")
        section[last] = copy.deepcopy(value)
    return changed
