"""Saving and loading of models as config.json and model.safetensors. Errors list every tensor that does not match."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from glassworks.artifacts.digests import write_json
from glassworks.artifacts.finite import check_finite
from glassworks.config.base import Settings, first_fault
from glassworks.errors import ArtifactError
from glassworks.models.memory import gather
from glassworks.models.quantisation import Quantisation, QuantisedLinear, layers_of, quantise, restore

CONFIG, WEIGHTS = "config.json", "model.safetensors"
S = TypeVar("S", bound=Settings)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Dtypes of a frozen base, by their names in settings."""
LISTED = 12
"""Maximum faults of each kind that an error lists."""


class Matches(NamedTuple):
    """The origin of the initial weights of a model."""

    source: str
    """The files that were read."""
    matched: int
    """Number of tensors of the model that were read."""
    new: list[str]
    """Tensors of the model that no file has."""
    left_over: list[str]
    """Tensors of the files that the model does not use."""

    def as_json(self) -> dict[str, Any]:
        """For the provenance: names with `*` for every index, and the number of tensors that a name stands for."""
        return {**self._asdict(), "new": _counted(self.new), "left_over": _counted(self.left_over)}

    def __str__(self) -> str:
        lists = [
            f"{title}: {', '.join(f'{name} ({count})' for name, count in _counted(names).items()) or 'nothing'}"
            for title, names in (("new", self.new), ("left over", self.left_over))
        ]
        return f"starts with {self.matched} tensors of {self.source}; {'; '.join(lists)}"


def _counted(names: list[str]) -> dict[str, int]:
    patterns = [".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names]
    return {pattern: patterns.count(pattern) for pattern in dict.fromkeys(patterns)}


@contextmanager
def without_weights() -> Iterator[None]:
    """Build modules on the meta device: parameters have a shape, but no memory and no initial values."""
    with torch.device("meta"), _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """Leaves out in-place draws and fills. On the meta device they change nothing, and torch imports its compiler for them."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        if getattr(function, "__name__", "") in ("normal_", "uniform_", "fill_", "zero_"):
            return arguments[0] if arguments else options["tensor"]
        return function(*arguments, **options)


def save(module: nn.Module, directory: Path, config: dict[str, Any]) -> None:
    """Write config.json and model.safetensors."""
    save_published(module.state_dict(), directory, config)


def save_published(tensors: Mapping[str, Tensor], directory: Path, config: dict[str, Any]) -> None:
    """Write config.json, and model.safetensors with the given tensor names."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / CONFIG, config)
    save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS)


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file with PyTorch's format metadata, which other libraries require. Raises `ArtifactError` for NaN and infinite values."""
    check_finite(tensors, file, "they are not saved")
    save_file(tensors, file, metadata={"format": "pt"})


def read_config(directory: Path, expected: str, name: str = CONFIG) -> dict[str, Any]:
    """config.json of a saved model, or another JSON file beside it. Raises `ArtifactError` with the `expected` content for an invalid file."""
    try:
        config = json.loads((directory / name).read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{directory / name}: not the configuration of {expected} ({error})") from None
    if not isinstance(config, dict):
        raise ArtifactError(f"{directory / name}: not the configuration of {expected}")
    return config


def read_settings(directory: Path, kind: str, settings: type[S]) -> tuple[S, int]:
    """The shape and the vocabulary size of a model written by `save`. Raises `ArtifactError` for another kind or version of model."""
    named = kind.replace("_", " ")
    saved = read_config(directory, f"a saved {named}")
    if saved.get("model") != kind:
        raise ArtifactError(f"{directory}: not a saved {named} (it is a {saved.get('model', 'foreign model')})")
    try:
        later: frozenset[str] = getattr(settings, "LATER", frozenset())
        fields = {name: saved[name] for name in settings.model_fields if name in saved or name not in later}
        return settings.model_validate(fields), int(saved["vocabulary"])
    except KeyError as error:
        raise ArtifactError(f"{directory / CONFIG}: the key {error} is missing; train the model again") from None
    except ValueError as error:
        raise ArtifactError(f"{first_fault(settings, error, directory / CONFIG)}; train the model again") from None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises `ArtifactError` for a damaged file, and for NaN and infinite values."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{file}: not a safetensors file ({error})") from None
    check_finite(tensors, file)
    return tensors


def assign(
    module: nn.Module,
    tensors: dict[str, Tensor],
    where: Path | str,
    optional: Set[str] = frozenset(),
    for_decoding: bool = False,
) -> None:
    """Make `tensors` the weights of `module`. Missing optional tensors keep their values.

    Raises `ArtifactError` listing missing, extra and misshapen tensors. The weights are then gathered into one block of memory, in the layout for
    training or `for_decoding` (`glassworks.models.memory`).
    """
    check({name: tensor.shape for name, tensor in module.state_dict().items()}, tensors, where, optional)
    module.load_state_dict(tensors, assign=True, strict=False)
    gather(module, for_decoding)


@torch.no_grad()
def fill(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    where: Path | str,
    dtype: torch.dtype = torch.float32,
    quantisation: Quantisation | None = None,
) -> Matches:
    """Copy the tensors of a saved model into `module`, or give them to a module on the meta device in `dtype`, quantised as `put_all` does.

    Raises `ArtifactError` listing missing, extra and misshapen tensors.
    """
    own = module.state_dict()
    check({name: tensor.shape for name, tensor in own.items()}, tensors, where)
    put_all(module, ((name, tensors[name]) for name in own), dtype, quantisation)
    return Matches(str(where), len(own), [], [])


@torch.no_grad()
def put_all(
    module: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    quantisation: Quantisation | None = None,
) -> None:
    """`put` every tensor. With `quantisation`, the linear layers of the blocks of a model on the meta device become quantised layers, one at a time."""
    quantised = {f"{name}.weight" for name in layers_of(module)} if quantisation else set()
    for name, value in tensors:
        if quantisation and name in quantised:
            put(module, name, value, torch.float32)
            owner = name.removesuffix(".weight")
            layer = module.get_submodule(owner)
            assert isinstance(layer, nn.Linear)
            module.set_submodule(owner, QuantisedLinear(layer, quantisation))
        else:
            put(module, name, value, dtype)


@torch.no_grad()
def put(module: nn.Module, name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Copy `value` into a tensor of `module`. A tensor on the meta device becomes a copy in `dtype`."""
    owner, _, part = name.rpartition(".")
    tensor = getattr(module.get_submodule(owner), part)
    if tensor.is_meta:
        module.get_submodule(owner).load_state_dict(
            {part: value.to(dtype, copy=True).contiguous()}, assign=True, strict=False
        )
    else:
        tensor.copy_(value)


@torch.no_grad()
def rounded(weight: Tensor, dtype: str, quantisation: Quantisation | None = None) -> Tensor:
    """A weight with the values that training has, which held it in `dtype` or quantised."""
    if quantisation:
        return restore(quantise(weight, quantisation), (weight.shape[0], weight.shape[1]))
    return weight.to(DTYPES[dtype]).to(weight.dtype)


@torch.no_grad()
def round_weights(
    module: nn.Module, dtype: str, quantisation: Quantisation | None = None, except_for: Set[str] = frozenset()
) -> None:
    """Round the weights as `put_all` does, but keep their dtype."""
    quantised = {f"{name}.weight" for name in layers_of(module)} if quantisation else set()
    for name, parameter in module.named_parameters():
        if name not in except_for:
            parameter.copy_(rounded(parameter, dtype, quantisation if name in quantised else None))


def check(
    expected: Mapping[str, Sequence[int]],
    tensors: Mapping[str, Tensor],
    where: Path | str,
    optional: Set[str] = frozenset(),
) -> None:
    """Raise `ArtifactError` listing missing, misshapen and unexpected tensors."""
    wrong = [
        f"{name} is {list(tensors[name].shape)}, not {list(expected[name])}"
        for name in sorted(expected.keys() & tensors.keys())
        if list(tensors[name].shape) != list(expected[name])
    ]
    faults = [
        *_listed([f"missing {name}" for name in sorted(expected.keys() - tensors.keys() - optional)]),
        *_listed([f"extra {name}" for name in sorted(tensors.keys() - expected.keys())]),
        *_listed(wrong),
    ]
    if faults:
        raise ArtifactError(f"{where}: {'; '.join(faults)}")


def _listed(faults: list[str]) -> list[str]:
    more = len(faults) - LISTED
    return [*faults[:LISTED], f"and {more} more like this"] if more > 0 else faults
