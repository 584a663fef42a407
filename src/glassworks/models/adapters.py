"""LoRA, rsLoRA, DoRA and PiSSA: low-rank updates of frozen linear layers, in full or quantised. Saved in peft's layout.

The modules are our own. peft draws every initial matrix from the global generator, so it depends on the order of creation; here it depends on the seed
and the parameter's name. Importing peft also loads transformers, which takes seconds.

`attach` refuses a layer that shares its weight, because merging would change the other owner too. `load_adapter` refuses features of peft that these
modules lack. Shapes: C input features, C' output features, R rank.
"""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
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
from glassworks.models.quantisation import QuantisedLinear, one_thread
from glassworks.models.settings.adapter import ALL, Adapter

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


FUSED = {"attention.qkv": ("q_proj", "k_proj", "v_proj"), "feed_forward.inner": ("gate_proj", "up_proj")}
"""Our layers that hold several published layers, by the endings of the names."""
SHORT = {
    "o_proj": ("attention.out",),
    "down_proj": ("feed_forward.out",),
    "c_attn": ("attention.qkv",),
    "c_fc": ("feed_forward.inner",),
    "c_proj": ("attention.out", "feed_forward.out"),
} | {part: (ours,) for ours, parts in FUSED.items() for part in parts}
"""Endings of our names for the short names that peft's users write, which are those of the layouts of Llama and GPT-2."""
Linear = nn.Linear | QuantisedLinear


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank update: [..., C] to [..., C'].

    LoRA and rsLoRA compute `W x + b + s B A x`. DoRA computes `m (W x + s B A x) / |W + s B A| + b` with a trained magnitude m [C'] and the norm of every
    row, which is a constant in the backward pass. A [R, C], B [C', R] and m are float32. Submodules have peft's names.

    PiSSA computes `W x + b + s (B A - B0 A0) x`, where `s B0 A0` are the R largest principal components of W. So the frozen part is the residual
    `W - s B0 A0`, but W keeps its memory and its bits. The difference is computed as `(B - B0) A + B0 (A - A0)`, which cancels nothing.

    The module has no `weight`: code that reads the weight of a layer instead of calling the layer fails, and cannot ignore the update.
    """

    lora_magnitude_vector: nn.Parameter | None
    initial_A: Tensor | None
    initial_B: Tensor | None

    def __init__(self, base_layer: Linear, settings: Adapter) -> None:
        """The update starts as zero, with A uninitialised, for PiSSA A0 and B0 too. Draws nothing from the global generator."""
        super().__init__()
        self.base_layer, self.settings = base_layer, settings
        self.scale, self.dropout = settings.scale, settings.dropout
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        device = next(iter(base_layer.state_dict().values())).device
        options: dict[str, Any] = {"bias": False, "device": device, "dtype": torch.float32}
        self.lora_A = nn.utils.skip_init(nn.Linear, self.in_features, settings.rank, **options)
        self.lora_B = nn.utils.skip_init(nn.Linear, settings.rank, self.out_features, **options)
        with torch.no_grad():
            self.lora_B.weight.zero_()
            norms = _row_norms(base_layer.weight.float()) if settings.kind == "dora" else None
        self.register_parameter("lora_magnitude_vector", None if norms is None else nn.Parameter(norms))
        for name, part in (("initial_A", self.lora_A), ("initial_B", self.lora_B)):
            self.register_buffer(name, torch.empty_like(part.weight) if settings.kind == "pissa" else None)
        self.train(base_layer.training)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x)
        drops = self.training and self.dropout > 0
        if drops or not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.lora_A.weight.dtype)  # dropout in bf16 would round its factor
        dropped = F.dropout(x, self.dropout) if drops else x
        if self.initial_A is None:
            update = self.lora_B(self.lora_A(dropped) * self.scale)
        else:
            after, before = self._factors()
            update = F.linear(F.linear(dropped, before) * self.scale, after)
        if self.lora_magnitude_vector is not None:
            magnitude = self.lora_magnitude_vector / self._row_norms()
            if drops and isinstance(self.base_layer, QuantisedLinear):
                plain = self.base_layer.product(dropped)
            elif drops:
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
        weight = self.base_layer.weight
        with torch.autocast(weight.device.type, enabled=False):
            return torch.addmm(weight.float(), *self._factors(), alpha=self.scale)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """The factors [C', R], [R, C] of the update; for PiSSA [C', 2 R], [2 R, C], whose products are 0 one by one before the first step."""
        after, before = self.lora_B.weight, self.lora_A.weight
        if self.initial_A is None or self.initial_B is None:
            return after, before
        return torch.cat([after - self.initial_B, self.initial_B], 1), torch.cat([before, before - self.initial_A])


def attach(model: nn.Module, settings: Adapter, seed: int) -> list[str]:
    """Replace the target layers by adapters in place, and return their names. Only adapters are trained afterwards; all else is frozen.

    The output does not change: B is 0. A is uniform in ±1/sqrt(C), drawn from the seed and the parameter's name on the CPU, so it depends neither on
    other targets nor on the device. PiSSA draws nothing: A and B are A0 and B0. Raises `ConfigError` for a pattern without a layer, and for more
    principal components than the weight has.
    """
    if _adapters(model):
        raise ConfigError("model.adapter: the model has an adapter already; merge it before adding another")
    names = _targets(model, settings)
    if settings.kind == "pissa":
        for name in names:
            layer = model.get_submodule(name)
            assert isinstance(layer, Linear)
            if settings.rank > min(layer.in_features, layer.out_features):
                raise ConfigError(
                    f"model.adapter.rank: {settings.rank} is more than the smaller side of {name}; lower it for kind pissa"
                )
    for name, adapter in _insert(model, names, settings).items():
        weight = adapter.lora_A.weight
        if weight.is_meta:
            continue
        if adapter.initial_A is not None and adapter.initial_B is not None:
            with torch.no_grad():
                after, before = principal_factors(adapter.base_layer.weight, settings.rank)
                for own, value in ((adapter.lora_B, after), (adapter.lora_A, before)):
                    own.weight.copy_(value * adapter.scale**-0.5)
                adapter.initial_B.copy_(adapter.lora_B.weight)
                adapter.initial_A.copy_(adapter.lora_A.weight)
        else:
            bound = adapter.in_features**-0.5
            generator = torch.Generator().manual_seed(_seed(seed, f"{name}.lora_A.weight"))
            with torch.no_grad():
                weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
    return names


@torch.no_grad()
def principal_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B [C', R] and A [R, C], whose product is the best approximation of rank R of a weight [C', C], in float64 on the CPU.

    They are the first singular vectors, each times the square root of its singular value, from the eigenvectors of the smaller Gram matrix. The
    largest element of each eigenvector is positive. One thread computes them, so they do not depend on the number of threads.
    """
    wide = weight.cpu().double()
    tall = wide.shape[0] > wide.shape[1]
    wide = wide.T if tall else wide
    with one_thread():
        values, vectors = torch.linalg.eigh(wide @ wide.T)
        values, vectors = values[-rank:].flip(0).clamp(min=0), vectors[:, -rank:].flip(1)
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        roots = values.pow(0.25)  # of the singular values
        others = (vectors.T @ wide) / roots.clamp(min=1e-30)[:, None]
    after, before = vectors * roots, others
    return (before.T, after.T) if tall else (after, before)


@torch.no_grad()
def merge(model: nn.Module, rounding: Callable[[str, Tensor], Tensor] | None = None) -> float:
    """Replace all adapters by plain linear layers with the same output, in place. The layers stay frozen.

    The merged weight is computed in float32, rounded to the dtype of the layer, and written to its memory. An adapter of a quantised layer is merged
    onto the restored weight, in float32. With `rounding`, a function of the name of a layer and its weight, the weight is rounded first. Returns the largest difference between an element of a merged
    weight and the same adapter merged onto the weight before rounding, 0 without `rounding`.
    """
    difference = 0.0
    for name, adapter in _adapters(model).items():
        layer = adapter.base_layer
        if isinstance(layer, QuantisedLinear):
            weight, bias = nn.Parameter(adapter.merged_weight(), False), layer.bias
            layer = nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, bias is not None)
            layer.weight, layer.bias = weight, None if bias is None else nn.Parameter(bias.float(), False)
        elif rounding is None:
            layer.weight.copy_(adapter.merged_weight())
        else:
            before = adapter.merged_weight()
            layer.weight.copy_(rounding(name, layer.weight))
            layer.weight.copy_(adapter.merged_weight())
            difference = max(difference, (layer.weight - before).abs().max().item())
        model.set_submodule(name, layer.train(adapter.training))
    return difference


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

    `base` has the `manifest` digest of the base model, and may have its `name`, which peft's configuration repeats. PiSSA is saved as the LoRA of rank
    2 R that computes the same on the original weights: A and A0, B and -B0. adapter_base.json then has `kind`, so that `load_adapter` finds the four again.
    """
    adapters = _adapters(model)
    if not adapters:
        raise ValueError("the model has no adapter")
    folder.mkdir(parents=True, exist_ok=True)
    settings = next(iter(adapters.values())).settings
    tensors, double, base = adapter_tensors(model), 1, dict(base)
    if settings.kind == "pissa":
        double, base["kind"] = 2, "pissa"
        for name, adapter in adapters.items():
            for part, initial, side in (("lora_A", adapter.initial_A, 0), ("lora_B", adapter.initial_B, 1)):
                assert initial is not None
                key = f"{name}.{part}.weight"
                tensors[key] = torch.cat([tensors[key], -initial if side else initial], side)
    alpha = settings.alpha * double
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base.get("name"),
        "inference_mode": True,
        "r": settings.rank * double,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.kind == "rslora",
        "use_dora": settings.kind == "dora",
        "target_modules": _target_modules(model, list(adapters)),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    saving.save_tensors({PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    write_json(folder / CONFIG, config)
    write_json(folder / BASE, base)


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
    pissa = (folder / BASE).is_file() and read_base(folder).get("kind") == "pissa"
    settings, linears = _read_settings(config, folder / CONFIG, pissa), _linears(model)
    names = [name for name in linears if _is_target(name, config["target_modules"])]
    if not names:
        hint = nearest(str(config["target_modules"]), _patterns(linears))
        raise ArtifactError(f"{folder / CONFIG}: target_modules name no linear layer of the model{hint}")
    _refuse_shared(model, names)
    tensors = saving.read_tensors(folder / WEIGHTS)
    expected: dict[str, list[int]] = {}
    for name in names:
        layer = linears[name]
        expected[f"{PREFIX}{name}.lora_A.weight"] = [settings.rank * (1 + pissa), layer.in_features]
        expected[f"{PREFIX}{name}.lora_B.weight"] = [layer.out_features, settings.rank * (1 + pissa)]
        if settings.kind == "dora":
            expected[f"{PREFIX}{name}.lora_magnitude_vector"] = [layer.out_features]
    saving.check(expected, tensors, folder / WEIGHTS)
    _insert(model, names, settings)
    with torch.no_grad():
        for name, adapter in _adapters(model).items():
            if adapter.initial_A is not None and adapter.initial_B is not None:
                keys = [f"{PREFIX}{name}.{part}.weight" for part in ("lora_A", "lora_B")]
                tensors[keys[0]], initial_A = tensors[keys[0]].chunk(2)
                tensors[keys[1]], initial_B = tensors[keys[1]].chunk(2, 1)
                adapter.initial_A.copy_(initial_A)
                adapter.initial_B.copy_(-initial_B)
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


def _linears(model: nn.Module) -> dict[str, Linear]:
    """Plain and quantised linear layers inside `model`. Subclasses are left out: their owner may never call `forward` (`nn.MultiheadAttention`)."""
    kinds = (nn.Linear, QuantisedLinear)
    return {name: module for name, module in model.named_modules() if name and type(module) in kinds}  # type: ignore[misc]


def _targets(model: nn.Module, settings: Adapter) -> list[str]:
    linears, targets = _linears(model), settings.targets or (ALL,)
    found = {
        name
        for target in targets
        for name in (_default_targets(model, linears) if target == ALL else _named(target, targets, linears))
    }
    if not found:
        raise ConfigError("model.adapter.targets: the model's blocks have no linear layer; name the layers")
    names = [name for name in linears if name in found]
    _refuse_shared(model, names)
    return names


def _named(target: str, targets: Sequence[str], linears: Mapping[str, Linear]) -> list[str]:
    """The layers with a name or a pattern of names. Without any, those whose name has this ending, in our layout or in the published one.

    Raises `ConfigError` for no layer, and for a part of a layer that holds several published ones.
    """
    if names := [name for name in linears if fnmatch.fnmatchcase(name, target)]:
        return names
    endings = [f".{ending}" for ending in (target, *SHORT.get(target, ()))]
    if names := [name for name in linears if name.endswith(tuple(endings))]:
        for ours, parts in FUSED.items():
            missing = [part for part in parts if part not in targets]
            if target in parts and missing and not any(name.endswith(f".{target}") for name in names):
                raise ConfigError(
                    f"model.adapter.targets: our {ours} holds {', '.join(parts)} and takes one adapter; add {', '.join(missing)}"
                )
        return names
    known = _patterns(linears)
    if "." not in target and "*" not in target:
        known += [name for name, ours in SHORT.items() if any(one.endswith(ours) for one in linears)]
    raise ConfigError(f"model.adapter.targets: no linear layer is called {target!r}{nearest(target, known)}")


def _default_targets(model: nn.Module, linears: Mapping[str, Linear]) -> list[str]:
    """All linear layers of `model.blocks()`. In a model without blocks (a model of transformers), all but the output layer."""
    blocks: Any = getattr(model, "blocks", None)
    if blocks is not None:
        listed = blocks.children() if isinstance(blocks, nn.Module) else blocks()
        inside = {id(module) for block in listed for module in block.modules()}
        return [name for name, layer in linears.items() if id(layer) in inside]
    output: Any = getattr(model, "get_output_embeddings", None)
    head = output and output()
    return [name for name, layer in linears.items() if layer is not head]


def _patterns(linears: Mapping[str, Linear]) -> list[str]:
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
        assert isinstance(layer, Linear)
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


def _read_settings(config: Mapping[str, Any], file: Path, pissa: bool) -> Adapter:
    kind = "dora" if config.get("use_dora") else "rslora" if config.get("use_rslora") else "lora"
    try:
        return Adapter.model_validate(
            {
                "kind": "pissa" if pissa else kind,
                "rank": config["r"] // 2 if pissa else config["r"],
                "alpha": config["lora_alpha"] / 2 if pissa else config["lora_alpha"],
                "dropout": config.get("lora_dropout", 0.0),
            }
        )
    except (KeyError, TypeError, ValueError):
        found = ", ".join(f"{name} {config.get(name)!r}" for name in ("r", "lora_alpha", "lora_dropout"))
        raise ArtifactError(f"{file}: a missing or invalid number among {found}") from None
