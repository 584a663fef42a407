"""Adapters with the module names of transformers: our adapters written so, and such adapters read onto our layers.

Our layers fuse projections that are computed together, so one of our updates is several published ones. They share A, and each has its rows of B and of
DoRA's magnitude. The other way, the A of the projections are stacked and B is block diagonal: the rank of our update is the sum of theirs.
Shapes: C input features, C' output features, R rank.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glassworks.artifacts.digests import sha256_file, write_json
from glassworks.artifacts.manifest import MANIFEST
from glassworks.config.base import nearest
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import adapters, saving
from glassworks.models.adapters import PREFIX, LoraLinear
from glassworks.models.language_model import KIND, LanguageModel
from glassworks.models.pretrained.language_models import (
    hub_config,
    load_language_model,
    published_pieces,
    read_decoder,
)
from glassworks.models.pretrained.mapping import Piece
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.text_decoder import TextDecoder as Config

A, B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"


def is_published(folder: Path) -> bool:
    """Whether a folder has an adapter with the module names of transformers. Beside an adapter of ours is the shape of the model."""
    if not (folder / adapters.CONFIG).is_file():
        return False
    return not (folder / saving.CONFIG).is_file() or saving.read_config(folder, "a model").get("model") != KIND


def publish_adapter(source: Path, target: Path, base: str, revision: str | None = None) -> str:
    """Write our adapter in `source` to `target` for peft on the published model; returns the architecture of the base in transformers.

    `base` and `revision` are what peft's configuration names as the base. Raises `ConfigError` if transformers has no architecture of the base.
    """
    shape, vocabulary = read_decoder(source)
    hub = hub_config(shape, vocabulary)
    pieces = _pieces(hub, shape)
    tensors: dict[str, Tensor] = {}
    adapted: list[str] = []
    for name, tensor in saving.read_tensors(source / adapters.WEIGHTS).items():
        ours, part = _split(name)
        if part not in (A, B, MAGNITUDE) or ours not in pieces:
            raise ConfigError(f"{source / adapters.WEIGHTS}: {name}: peft has no place for it on {hub['model_type']}")
        piece = pieces[ours]
        parts = [tensor] * len(piece.theirs) if part == A else tensor.split(piece.rows or len(tensor))
        for theirs, rows in zip(piece.theirs, parts, strict=True):
            tensors[f"{PREFIX}{theirs}.{part}"] = rows.clone()
            adapted += [theirs] if part == A else []
    config = {
        **saving.read_config(source, "an adapter", adapters.CONFIG),
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "target_modules": _targets(adapted, [name for piece in pieces.values() for name in piece.theirs]),
        "fan_in_fan_out": hub["model_type"] == "gpt2",
    }
    target.mkdir(parents=True, exist_ok=True)
    saving.save_tensors(tensors, target / adapters.WEIGHTS)
    write_json(target / adapters.CONFIG, config)
    [architecture] = hub["architectures"]
    return str(architecture)


def load_published_adapter(folder: Path, base: Path, merged: bool) -> LanguageModel:
    """The model of `base` with the adapter of `folder`, or with the adapter `merged` into it, in float32.

    Raises `ArtifactError` listing missing, extra and misshapen tensors, and if the folder records the digest of another base.
    """
    model = load_language_model(base)
    record = adapters.read_base(folder) if (folder / adapters.BASE).is_file() else {}
    found = sha256_file(base / MANIFEST) if (base / MANIFEST).is_file() else None
    if found and record.get("manifest", found) != found:
        raise ArtifactError(
            f"{folder}: an adapter of the base {record['manifest']}, not of {found}; load it onto its own base"
        )
    saving.round_weights(model, record.get("dtype", "fp32"), record.get("quantisation"))
    _attach(model, folder)
    if merged:
        adapters.merge(model)
    return model


def _attach(model: LanguageModel, folder: Path) -> None:
    config = adapters._read_config(folder)
    settings = adapters._read_settings(config, folder / adapters.CONFIG, pissa=False)
    targets = config["target_modules"]
    layers = {
        ours: (layer, piece)
        for ours, piece in _pieces(hub_config(model.config, model.vocabulary), model.config).items()
        if isinstance(layer := model.get_submodule(ours), nn.Linear)
    }
    names = [name for _, piece in layers.values() for name in piece.theirs]
    chosen = {name for name in names if adapters._is_target(name, targets)}
    if not chosen:
        raise ArtifactError(
            f"{folder / adapters.CONFIG}: target_modules name no linear layer of the base{nearest(str(targets), names)}"
        )
    tensors = saving.read_tensors(folder / adapters.WEIGHTS)
    expected: dict[str, list[int]] = {}
    for layer, piece in layers.values():
        for name, rows in zip(piece.theirs, piece.rows or (layer.out_features,), strict=True):
            if name in chosen:
                expected[f"{PREFIX}{name}.{A}"] = [settings.rank, layer.in_features]
                expected[f"{PREFIX}{name}.{B}"] = [rows, settings.rank]
                if settings.kind == "dora":
                    expected[f"{PREFIX}{name}.{MAGNITUDE}"] = [rows]
    saving.check(expected, tensors, folder / adapters.WEIGHTS)
    model.requires_grad_(False)
    for ours, (layer, piece) in layers.items():
        if chosen.intersection(piece.theirs):
            model.set_submodule(ours, _joined(layer, piece, settings, tensors, chosen))


@torch.no_grad()
def _joined(
    layer: nn.Linear, piece: Piece, settings: Adapter, tensors: Mapping[str, Tensor], chosen: set[str]
) -> LoraLinear:
    """Our update of a fused layer. A projection without an update has rows of zeros in B, and for DoRA the norms of its own rows."""
    rank = settings.rank * len(chosen.intersection(piece.theirs))
    kind: Any = "dora" if settings.kind == "dora" else "lora"
    joined = LoraLinear(layer, Adapter(kind=kind, rank=rank, alpha=settings.scale * rank, dropout=settings.dropout))
    row = column = 0
    for name, rows in zip(piece.theirs, piece.rows or (layer.out_features,), strict=True):
        if name in chosen:
            columns = slice(column, column + settings.rank)
            joined.lora_A.weight[columns] = tensors[f"{PREFIX}{name}.{A}"].float()
            joined.lora_B.weight[row : row + rows, columns] = tensors[f"{PREFIX}{name}.{B}"].float()
            if joined.lora_magnitude_vector is not None:
                joined.lora_magnitude_vector[row : row + rows] = tensors[f"{PREFIX}{name}.{MAGNITUDE}"].float()
            column += settings.rank
        row += rows
    return joined


def _pieces(hub: Mapping[str, Any], config: Config) -> dict[str, Piece]:
    """The pieces of all weights by our module name, with the published module names."""
    return {
        piece.ours.removesuffix(".weight"): Piece(
            piece.ours, tuple(name.removesuffix(".weight") for name in piece.theirs), piece.rows
        )
        for piece in published_pieces(hub, config)
        if piece.ours.endswith(".weight")
    }


def _split(name: str) -> tuple[str, str]:
    """Module and part of the name of a tensor."""
    module, _, part = name.removeprefix(PREFIX).partition(".lora_")
    return module, f"lora_{part}"


def _targets(adapted: list[str], names: list[str]) -> list[str]:
    """`target_modules` that select exactly the adapted modules: the last parts of their names if possible, as is usual."""
    endings = sorted({name.rpartition(".")[-1] for name in adapted})
    selected = [name for name in names if name.rpartition(".")[-1] in endings]
    return endings if sorted(selected) == sorted(adapted) else sorted(adapted)
