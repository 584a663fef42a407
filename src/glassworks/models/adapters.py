"""LoRA, rsLoRA and DoRA: low-rank updates of frozen linear layers. Saved in peft's layout.

The modules are our own. peft draws every initial matrix from the global generator, so it depends on the order of creation; here it depends on the seed
and the parameter's name. Importing peft also loads transformers, which takes seconds.

`attach` refuses a layer that shares its weight, because merging would change the other owner too. `load_adapter` refuses features of peft that these
modules lack. Shapes: C input features, C' output features, R rank.
"""

import fnmatch
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.artifacts.digests import write_json
from glassworks.artifacts.manifest import MANIFEST
from glassworks.config.base import nearest
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import saving
from glassworks.models.settings.adapter import Adapter

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "adapter_base.json"
PREFIX = "base_model.model."
"""Prefix of tensor names in peft's files."""
NEUTRAL = {
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
}
"""Keys of peft's configuration that `load_adapter` reads, or that change nothing. Any other key must be unset."""


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank update: [..., C] to [..., C'].

    LoRA and rsLoRA compute `W x + b + s B A x`. DoRA computes `m (W x + s B A x) / |W + s B A| + b` with a trained magnitude m [C'] and the norm of every
    row, which is a constant in the backward pass. A [R, C], B [C', R] and m are float32. Submodules have peft's names.

    The module has no `weight`: code that reads the weight of a layer instead of calling the layer fails, and cannot ignore the update.
    """

    lora_magnitude_vector: nn.Parameter | None

    def __init__(self, base_layer: nn.Linear, settings: Adapter) -> None:
        """The update starts as zero, with A uninitialised. Draws nothing from the global generator."""
        super().__init__()
        self.base_layer, self.settings = base_layer, settings
        self.scale, self.dropout = settings.scale, settings.dropout
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        options: dict[str, Any] = {"bias": False, "device": base_layer.weight.device, "dtype": torch.float32}
        self.lora_A = nn.utils.skip_init(nn.Linear, self.in_features, settings.rank, **options)
        self.lora_B = nn.utils.skip_init(nn.Linear, settings.rank, self.out_features, **options)
        with torch.no_grad():
            self.lora_B.weight.zero_()
            norms = _row_norms(base_layer.weight.float()) if settings.kind == "dora" else None
        self.register_parameter("lora_magnitude_vector", None if norms is None else nn.Parameter(norms))
        self.train(base_layer.training)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x)
        drops = self.training and self.dropout > 0
        if drops or not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.lora_A.weight.dtype)  # dropout in bf16 would round its factor
        dropped = F.dropout(x, self.dropout) if drops else x
        update = self.lora_B(self.lora_A(dropped) * self.scale)
        if self.lora_magnitude_vector is not None:
            magnitude = self.lora_magnitude_vector / self._row_norms()
            if drops:
                plain = F.linear(dropped, self.base_layer.weight.to(x.dtype))
            else:
                plain = result if self.base_layer.bias is None else result - self.base_layer.bias
            update = (magnitude - 1) * plain + magnitude * update
        return (result + update).to(result.dtype)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight [C', C] of the linear layer that computes the same function without dropout, in float32."""
        weight = self._updated_weight()
        if self.lora_magnitude_vector is None:
            return weight
        return weight * (self.lora_magnitude_vector / _row_norms(weight))[:, None]

    def extra_repr(self) -> str:
        return f"kind={self.settings.kind}, rank={self.settings.rank}, scale={self.scale:g}"

    @torch.no_grad()
    def _row_norms(self) -> Tensor:
        """|W + s B A| of every row, [C']. Equal to m at first, so m divided by it is exactly 1."""
        return _row_norms(self._updated_weight())

    def _updated_weight(self) -> Tensor:
        """W + s B A [C', C] in float32, under autocast too."""
        weight, factors = self.base_layer.weight, (self.lora_B.weight, self.lora_A.weight)
        with torch.autocast(weight.device.type, enabled=False):
            return torch.addmm(weight.float(), *factors, alpha=self.scale)


def attach(model: nn.Module, settings: Adapter, seed: int) -> list[str]:
    """Replace the target layers by adapters in place, and return their names. Only adapters are trained afterwards; all else is frozen.

    The output does not change: B is 0. A is uniform in ±1/sqrt(C), drawn from the seed and the parameter's name on the CPU, so it depends neither on
    other targets nor on the device. Raises `ConfigError` for a pattern without a layer.
    """
    if _adapters(model):
        raise ConfigError("model.adapter: the model has an adapter already; merge it before adding another")
    names = _targets(model, settings)
    for name, adapter in _insert(model, names, settings).items():
        weight = adapter.lora_A.weight
        if not weight.is_meta:
            bound = adapter.in_features**-0.5
            generator = torch.Generator().manual_seed(_seed(seed, f"{name}.lora_A.weight"))
            with torch.no_grad():
                weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
    return names


def merge(model: nn.Module) -> None:
    """Replace all adapters by plain linear layers with the same output, in place. The layers stay frozen.

    The merged weight is computed in float32, rounded to the dtype of the layer, and written to its memory.
    """
    for name, adapter in _adapters(model).items():
        with torch.no_grad():
            adapter.base_layer.weight.copy_(adapter.merged_weight())
        model.set_submodule(name, adapter.base_layer.train(adapter.training))


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trained tensors of all adapters, by parameter name."""
    return {
        f"{name}.{part}": tensor.detach()
        for name, adapter in _adapters(model).items()
        for part, tensor in adapter.named_parameters()
        if not part.startswith("base_layer.")
    }


def save_adapter(model: nn.Module, folder: Path, base: Mapping[str, str]) -> None:
    """Write the adapter in peft's layout, and `base` to adapter_base.json.

    `base` has the `manifest` digest of the base model, and may have its `name`, which peft's configuration repeats.
    """
    adapters = _adapters(model)
    if not adapters:
        raise ValueError("the model has no adapter")
    folder.mkdir(parents=True, exist_ok=True)
    settings = next(iter(adapters.values())).settings
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base.get("name"),
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": int(settings.alpha) if settings.alpha.is_integer() else settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.kind == "rslora",
        "use_dora": settings.kind == "dora",
        "target_modules": _target_modules(model, list(adapters)),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    tensors = {PREFIX + name: tensor.contiguous() for name, tensor in adapter_tensors(model).items()}
    saving.save_tensors(tensors, folder / WEIGHTS)
    write_json(folder / CONFIG, config)
    write_json(folder / BASE, dict(base))


def load_adapter(model: nn.Module, folder: Path, manifest: str | None = None) -> list[str]:
    """Attach the adapter that `save_adapter` or peft wrote, and return the names of its layers. The model is unchanged after an error.

    With `manifest`, the digest of the base model, an adapter saved for another base is refused. Raises `ArtifactError` listing missing, extra and
    misshapen tensors.
    """
    if _adapters(model):
        raise ConfigError("model.adapter: the model has an adapter already; merge it before loading another")
    if manifest is not None and (saved := read_base(folder).get("manifest")) != manifest:
        raise ArtifactError(f"{folder}: an adapter of the base {saved}, not of {manifest}; load it onto its own base")
    config = _read_config(folder)
    settings, linears = _read_settings(config, folder / CONFIG), _linears(model)
    names = [name for name in linears if _is_target(name, config["target_modules"])]
    if not names:
        hint = nearest(str(config["target_modules"]), _patterns(linears))
        raise ArtifactError(f"{folder / CONFIG}: target_modules name no linear layer of the model{hint}")
    _refuse_shared(model, names)
    tensors = saving.read_tensors(folder / WEIGHTS)
    expected: dict[str, list[int]] = {}
    for name in names:
        layer = linears[name]
        expected[f"{PREFIX}{name}.lora_A.weight"] = [settings.rank, layer.in_features]
        expected[f"{PREFIX}{name}.lora_B.weight"] = [layer.out_features, settings.rank]
        if settings.kind == "dora":
            expected[f"{PREFIX}{name}.lora_magnitude_vector"] = [layer.out_features]
    saving.check(expected, tensors, folder / WEIGHTS)
    _insert(model, names, settings)
    with torch.no_grad():
        for name, tensor in adapter_tensors(model).items():
            tensor.copy_(tensors[PREFIX + name])
    return names


def find_base(folder: Path) -> Path:
    """The base of a saved adapter, by the recorded name: a model beside it, or published weights of the project. Raises `ArtifactError` if it is missing."""
    base = folder.resolve().with_name(str(read_base(folder).get("name")))
    weights = folder.resolve().parents[1] / "data/weights" / base.name
    for found in (base, weights):
        if (found / MANIFEST).is_file():
            return found
    raise ArtifactError(
        f"{folder}: an adapter of {base.name}, which is neither at {base} nor at {weights}; train it or `glassworks pull` it"
    )


def read_base(folder: Path) -> dict[str, Any]:
    """The base that `save_adapter` recorded. Raises `ArtifactError` for an adapter without it."""
    return saving.read_config(folder, "an adapter's base", BASE)


def _adapters(model: nn.Module) -> dict[str, LoraLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Plain linear layers inside `model`. Subclasses are left out: their owner may never call `forward` (`nn.MultiheadAttention`)."""
    return {name: module for name, module in model.named_modules() if name and type(module) is nn.Linear}


def _targets(model: nn.Module, settings: Adapter) -> list[str]:
    linears = _linears(model)
    if settings.targets is None:
        names = _default_targets(model, linears)
        if not names:
            raise ConfigError("model.adapter.targets: the model's blocks have no linear layer; name the layers")
    else:
        for pattern in settings.targets:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in linears):
                hint = nearest(pattern, _patterns(linears))
                raise ConfigError(f"model.adapter.targets: no linear layer is called {pattern!r}{hint}")
        names = [name for name in linears if any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.targets)]
    _refuse_shared(model, names)
    return names


def _default_targets(model: nn.Module, linears: Mapping[str, nn.Linear]) -> list[str]:
    """All linear layers of `model.blocks()`. In a model without blocks (a model of transformers), all but the output layer."""
    blocks: Any = getattr(model, "blocks", None)
    if blocks is not None:
        listed = blocks.children() if isinstance(blocks, nn.Module) else blocks()
        inside = {id(module) for block in listed for module in block.modules()}
        return [name for name, layer in linears.items() if id(layer) in inside]
    output: Any = getattr(model, "get_output_embeddings", None)
    head = output and output()
    return [name for name, layer in linears.items() if layer is not head]


def _patterns(linears: Mapping[str, nn.Linear]) -> list[str]:
    """The names of layers with `*` for every index: one name for the same layer of all blocks."""
    return sorted({".".join("*" if part.isdigit() else part for part in name.split(".")) for name in linears})


def _refuse_shared(model: nn.Module, names: list[str]) -> None:
    owners: dict[int, list[str]] = {}
    for owner, module in model.named_modules(remove_duplicate=False):
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(owner)
    for name in names:
        for parameter in model.get_submodule(name).parameters():
            others = [owner for owner in owners[id(parameter)] if owner != name]
            if others:
                raise ConfigError(
                    f"model.adapter.targets: {name} shares its weight with {others[0]}, so an adapter of it cannot be merged; leave it out"
                )


def _insert(model: nn.Module, names: list[str], settings: Adapter) -> dict[str, LoraLinear]:
    """Freeze the model, then replace the named layers by adapters."""
    model.requires_grad_(False)
    inserted = {}
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        inserted[name] = LoraLinear(layer, settings)
        model.set_submodule(name, inserted[name])
    return inserted


def _seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _row_norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=1)


def _target_modules(model: nn.Module, names: list[str]) -> list[str] | str:
    """`target_modules` of peft that select exactly the named layers: the last parts of the names if possible, as is usual."""
    modules = [name for name, _ in model.named_modules()]
    for targets in (sorted({name.rpartition(".")[-1] for name in names}), names):
        if [name for name in modules if _is_target(name, targets)] == names:
            return targets
    return "|".join(map(re.escape, names))


def _is_target(name: str, targets: str | list[str]) -> bool:
    """peft's rule: a list has whole names or endings of names, a string is a regular expression for the whole name."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _read_config(folder: Path) -> dict[str, Any]:
    file, config = folder / CONFIG, saving.read_config(folder, "an adapter", CONFIG)
    if config.get("peft_type") != "LORA":
        raise ArtifactError(f"{file}: not the configuration of a LoRA adapter")
    if not isinstance(config.get("target_modules"), str | list):
        raise ArtifactError(f"{file}: target_modules is {config.get('target_modules')!r}, not a list of names")
    initial = config.get("init_lora_weights", True)
    unknown = {name: value for name, value in config.items() if name not in NEUTRAL and value and value != "none"}
    if not isinstance(initial, bool) and initial != "gaussian":
        unknown["init_lora_weights"] = initial
    if config.get("use_dora") and config.get("use_rslora"):
        unknown["use_rslora"] = "true with use_dora"
    if unknown:
        name, value = next(iter(unknown.items()))
        raise ArtifactError(
            f"{file}: {name} is {value!r}, which our adapters do not support; merge this adapter by peft"
        )
    return config


def _read_settings(config: Mapping[str, Any], file: Path) -> Adapter:
    kind = "dora" if config.get("use_dora") else "rslora" if config.get("use_rslora") else "lora"
    try:
        return Adapter.model_validate(
            {
                "kind": kind,
                "rank": config["r"],
                "alpha": config["lora_alpha"],
                "dropout": config.get("lora_dropout", 0.0),
            }
        )
    except (KeyError, ValueError):
        found = ", ".join(f"{name} {config.get(name)!r}" for name in ("r", "lora_alpha", "lora_dropout"))
        raise ArtifactError(f"{file}: a missing or invalid number among {found}") from None
