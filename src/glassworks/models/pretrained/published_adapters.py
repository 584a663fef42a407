"""Adapters with the module names of transformers: our adapters written so, and such adapters read onto our layers. Only names differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from glassworks.artifacts.digests import sha256_file, write_json
from glassworks.artifacts.manifest import MANIFEST
from glassworks.config.base import nearest
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import adapters, new_tokens, saving
from glassworks.models.adapters import PREFIX
from glassworks.models.language_model import KIND, LanguageModel
from glassworks.models.new_tokens import ROWS
from glassworks.models.pretrained.language_models import (
    hub_config,
    load_language_model,
    published_pieces,
    read_decoder,
)
from glassworks.models.settings.text_decoder import TextDecoder as Config


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
    names = _names(hub, shape)
    tensors: dict[str, Tensor] = {}
    adapted: list[str] = []
    rows: list[str] = []
    for name, tensor in saving.read_tensors(source / adapters.WEIGHTS).items():
        if name.endswith(f".{ROWS}"):
            module = names[name.removeprefix(PREFIX).removesuffix(f".{ROWS}")]
            tensors[f"{PREFIX}{module}.{ROWS}"] = tensor
            rows.append(module)
            continue
        ours, _, part = name.removeprefix(PREFIX).partition(".lora_")
        if ours not in names:
            raise ConfigError(f"{source / adapters.WEIGHTS}: {name}: peft has no place for it on {hub['model_type']}")
        tensors[f"{PREFIX}{names[ours]}.lora_{part}"] = tensor
        adapted += [names[ours]] if part == "A.weight" else []
    saved = saving.read_config(source, "an adapter", adapters.CONFIG)
    if span := new_tokens.span(saved, source / adapters.CONFIG):
        ids = list(range(span[0], sum(span)))
        saved[new_tokens.INDICES] = {module.rpartition(".")[-1]: ids for module in rows}
    config = {
        **saved,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "target_modules": adapters.target_modules(sorted(adapted), names.values()),
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
    config = adapters.read_config(folder)
    settings = adapters.read_settings(config, folder / adapters.CONFIG, pissa=False)
    names, targets = _names(hub_config(model.config, model.vocabulary), model.config), config["target_modules"]
    known = {ours: names[ours] for ours in adapters.projections(model)}
    chosen = {ours: theirs for ours, theirs in known.items() if adapters.is_target(theirs, targets)}
    if not chosen:
        hint = nearest(str(targets), list(known.values()))
        raise ArtifactError(f"{folder / adapters.CONFIG}: target_modules name no linear layer of the base{hint}")
    span = new_tokens.span(config, folder / adapters.CONFIG)
    adapters.put_adapter(model, settings, chosen, folder / adapters.WEIGHTS, span, names)


def _names(hub: Mapping[str, Any], config: Config) -> dict[str, str]:
    """The published name of every projection and of every other module with a weight, by our name."""
    names = {}
    for piece in published_pieces(hub, config):
        ours, _, weight = piece.ours.rpartition(".")
        for theirs in piece.theirs if weight == "weight" else ():
            module = theirs.removesuffix(".weight")
            names[f"{ours}.{module.rpartition('.')[-1]}" if piece.rows else ours] = module
    return names
