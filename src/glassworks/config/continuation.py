"""The shape of a model, inherited from the experiment or the published weights that its training starts with."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from glassworks.config.base import Settings
from glassworks.errors import ConfigError

S = TypeVar("S", bound=Settings)
FREE = frozenset({"dropout", "max_tokens", "rope_theta"})
"""Settings of a shape that may change when training continues: they change no tensor, or a change of a tensor is an error."""
OWN = frozenset({"from", "weights", "adapter", "base_dtype", "language_model"})
"""Keys of a section `model` that are no part of the shape."""


def merge_shapes(base: Mapping[str, Any], own: Mapping[str, Any], source: str, path: str = "model") -> dict[str, Any]:
    """`base` with the `FREE` settings of `own`. Raises `ConfigError` for another setting that differs; `source` names the owner of `base`."""
    merged = dict(base)
    for key, value in own.items():
        where = f"{path}.{key}"
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = merge_shapes(base[key], value, source, where)
        elif key not in base or (key in FREE and not path.startswith("model.adapter")):
            merged[key] = value
        elif value != base[key]:
            raise ConfigError(
                f"{where}: {value!r}, but {source!r}, from which it continues, has {base[key]!r}; remove this key"
            )
    return merged


def inherit_shape(model: Settings, saved: S, source: str) -> S:
    """The shape `saved` with the artefact `source`, and the `FREE` settings of the section `model`. Raises `ConfigError` as `merge_shapes`."""
    own = {key: value for key, value in model.model_dump(mode="json").items() if key not in OWN}
    merged = merge_shapes(saved.model_dump(mode="json"), own, source)
    return type(saved).model_validate_json(json.dumps(merged))


def inherited_section(base: Settings, own: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The section `model` of a file, with the settings of the `base` that it continues from and does not repeat.

    An adapter of published weights is continued as an adapter of these weights. Raises `ConfigError` as `merge_shapes`.
    """
    theirs = {key: value for key, value in base.model_dump(mode="json").items() if value is not None}
    continued = {"adapter", "weights"} if {"adapter", "weights"} <= theirs.keys() else set()
    return merge_shapes({key: theirs[key] for key in theirs if key not in OWN - continued}, own, source)
