"""LoRA, rsLoRA, DoRA and PiSSA: low-rank updates of frozen linear layers, in full or quantised. Saved in peft's layout.

The modules are our own. peft draws every initial matrix from the global generator, so it depends on the order of creation; here it depends on the seed
and the parameter's name. Importing peft also loads transformers, which takes seconds.

`attach` refuses a layer that shares its weight, because merging would change the other owner too. `load_adapter` refuses features of peft that these
modules lack.

Our models fuse projections: queries, keys and values are one layer, and so are gate and up. As in peft, each projection has its own update. Module
attributes `fused_rows` ({layer: {projection: rows}}) tell where a projection lies. Its name is that of the layer and its own, `attention.qkv.q_proj`.
Shapes: C input features, C' output features, R rank, P adapted projections of a layer, C'' rows of these.
"""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.artifacts.digests import sha256_file, write_json
from glassworks.artifacts.manifest import MANIFEST
from glassworks.config.base import nearest
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import new_tokens, saving
from glassworks.models.quantisation import Quantisation, QuantisedLinear, one_thread
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
    new_tokens.INDICES,
    "use_dora",
    "use_rslora",
}
"""Keys of peft's configuration that `load_adapter` reads, or that change nothing. Any other key must be unset."""

SHORT = {
    "o_proj": ("attention.out",),
    "down_proj": ("feed_forward.out",),
    "c_attn": ("attention.qkv",),
    "c_fc": ("feed_forward.inner",),
    "c_proj": ("attention.out", "feed_forward.out"),
}
"""Endings of our names for the short names of published layers that peft's users write. The parts of our fused layers have their short names."""
Linear = nn.Linear | QuantisedLinear


class Projection(NamedTuple):
    """A linear layer, or a part of a fused one."""

    layer: str
    """Name of the layer in the model."""
    part: str
    """Name of the part; "" is the whole layer."""
    rows: int
    """Output features."""
    in_features: int


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank update of some or all of its projections: [..., C] to [..., C'].

    For each projection, LoRA and rsLoRA compute `W x + b + s B A x`. DoRA computes `m (W x + s B A x) / |W + s B A| + b` with a trained magnitude m and
    the norm of every row, which is a constant in the backward pass. Submodules have peft's names. The float32 parameters hold all projections, one after
    the other: A [P R, C], B [C'', R] and m [C''].

    PiSSA computes `W x + b + s (B A - B0 A0) x`, where `s B0 A0` are the R largest principal components of W. So the frozen part is the residual
    `W - s B0 A0`, but W keeps its memory and its bits. The difference is computed as `(B - B0) A + B0 (A - A0)`, which cancels nothing.

    Dropout draws one mask for all projections of the layer. The module has no `weight`: code that reads the weight of a layer instead of calling the
    layer fails, and cannot ignore the update.
    """

    lora_magnitude_vector: nn.Parameter | None
    initial_A: Tensor | None
    initial_B: Tensor | None

    def __init__(
        self,
        base_layer: Linear,
        settings: Adapter,
        fused_rows: Mapping[str, int] | None = None,
        adapted: Collection[str] = ("",),
    ) -> None:
        """The update starts as zero, with A uninitialised, for PiSSA A0 and B0 too. Draws nothing from the global generator.

        `fused_rows` has the rows of the projections of a fused layer, and `adapted` names those with an update.
        """
        super().__init__()
        self.base_layer, self.settings = base_layer, settings
        self.scale, self.dropout = settings.scale, settings.dropout
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.fused_rows = dict(fused_rows or {"": self.out_features})
        self.adapted = tuple(part for part in self.fused_rows if part in adapted)
        self.rows = [self.fused_rows[part] for part in self.adapted]
        device = next(iter(base_layer.state_dict().values())).device
        options: dict[str, Any] = {"bias": False, "device": device, "dtype": torch.float32}
        self.lora_A = nn.utils.skip_init(nn.Linear, self.in_features, len(self.rows) * settings.rank, **options)
        self.lora_B = nn.utils.skip_init(nn.Linear, settings.rank, sum(self.rows), **options)
        with torch.no_grad():
            self.lora_B.weight.zero_()
            norms = torch.cat(self._row_norms(base_layer.weight.float())) if settings.kind == "dora" else None
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
        after, before = self._factors()
        low = (F.linear(dropped, before) * self.scale).split(after.shape[1], -1)
        updates = [F.linear(*pair) for pair in zip(low, after.split(self.rows), strict=True)]
        if self.lora_magnitude_vector is not None:
            if drops and isinstance(self.base_layer, QuantisedLinear):
                plain = self.base_layer.product(dropped)
            elif drops:
                plain = F.linear(dropped, self.base_layer.weight.to(x.dtype))
            else:
                plain = result if self.base_layer.bias is None else result - self.base_layer.bias
            parts = zip(
                self.lora_magnitude_vector.split(self.rows),
                self._row_norms(self._updated_weight()),
                self._adapted_parts(plain, -1),
                updates,
                strict=True,
            )
            updates = [(m / norm - 1) * part + m / norm * update for m, norm, part, update in parts]
        return (result + self._join(updates)).to(result.dtype)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight [C', C] of the linear layer that computes the same function without dropout, in float32."""
        weight = self._updated_weight()
        if self.lora_magnitude_vector is not None:
            magnitudes = self.lora_magnitude_vector.split(self.rows)
            for part, m in zip(self._adapted_parts(weight, 0), magnitudes, strict=True):
                part.mul_((m / _row_norms(part))[:, None])
        return weight

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """For each adapted projection its rows of the parameters and of A0 and B0, by their names, in the same memory."""
        views: dict[str, dict[str, Tensor]] = {part: {} for part in self.adapted}
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if not name.startswith("base_layer."):
                rows = self.settings.rank if name in ("lora_A.weight", "initial_A") else self.rows
                for part, own in zip(self.adapted, tensor.detach().split(rows), strict=True):
                    views[part][name] = own
        return views

    def extra_repr(self) -> str:
        parts = f", adapted={', '.join(self.adapted)}" if any(self.adapted) else ""
        return f"kind={self.settings.kind}, rank={self.settings.rank}, scale={self.scale:g}{parts}"

    def _adapted_parts(self, tensor: Tensor, dimension: int) -> list[Tensor]:
        """The adapted projections in a tensor with C' elements along `dimension`, in the same memory."""
        parts = tensor.split(list(self.fused_rows.values()), dimension)
        return [part for name, part in zip(self.fused_rows, parts, strict=True) if name in self.adapted]

    def _join(self, updates: list[Tensor]) -> Tensor:
        """[..., C'] from the updates of the adapted projections, with zeros for the others."""
        if len(self.fused_rows) == 1:
            return updates[0]
        shape, found = updates[0].shape[:-1], iter(updates)
        return torch.cat(
            [
                next(found) if name in self.adapted else updates[0].new_zeros(*shape, rows)
                for name, rows in self.fused_rows.items()
            ],
            -1,
        )

    @torch.no_grad()
    def _row_norms(self, weight: Tensor) -> list[Tensor]:
        """The norms of the rows of each adapted projection in a weight [C', C]. Those of `_updated_weight` equal m at first, so m / norm is exactly 1."""
        return [_row_norms(part) for part in self._adapted_parts(weight, 0)]

    @torch.no_grad()
    def _updated_weight(self) -> Tensor:
        """W + s B A [C', C] in float32, under autocast too."""
        weight = self.base_layer.weight
        with torch.autocast(weight.device.type, enabled=False):
            weight = weight.to(torch.float32, copy=True)
            after, before = self._factors()
            factors = zip(after.split(self.rows), before.split(after.shape[1]), strict=True)
            for part, pair in zip(self._adapted_parts(weight, 0), factors, strict=True):
                part.addmm_(*pair, alpha=self.scale)
        return weight

    def _factors(self) -> tuple[Tensor, Tensor]:
        """The factors [C'', R], [P R, C] of the updates; for PiSSA [C'', 2 R], [2 P R, C], whose products are 0 one by one before the first step."""
        after, before = self.lora_B.weight, self.lora_A.weight
        if self.initial_A is None or self.initial_B is None:
            return after, before
        both = [one.unflatten(0, (len(self.rows), -1)) for one in (before, before - self.initial_A)]
        return torch.cat([after - self.initial_B, self.initial_B], 1), torch.cat(both, 1).flatten(0, 1)


def attach(model: nn.Module, settings: Adapter, seed: int) -> list[str]:
    """Replace the target layers by adapters in place, and return their names. Only adapters are trained afterwards; all else is frozen.

    The output does not change: B is 0. A is uniform in ±1/sqrt(C), drawn from the seed and the projection's name on the CPU, so it depends neither on
    other targets nor on the device. PiSSA draws nothing: A and B are A0 and B0. Raises `ConfigError` for a pattern without a layer, and for more
    principal components than the weight has.
    """
    if _adapters(model):
        raise ConfigError("model.adapter: the model has an adapter already; merge it before adding another")
    names = _targets(model, settings)
    if settings.kind == "pissa":
        for name, projection in names.items():
            if settings.rank > min(projection.in_features, projection.rows):
                raise ConfigError(
                    f"model.adapter.rank: {settings.rank} is more than the smaller side of {name}; lower it for kind pissa"
                )
    inserted = _insert(model, names.values(), settings)
    for layer, adapter in inserted.items():
        if not adapter.lora_A.weight.is_meta:
            _initialise(adapter, layer, seed)
    return list(inserted)


@torch.no_grad()
def _initialise(adapter: LoraLinear, layer: str, seed: int) -> None:
    weights = adapter._adapted_parts(adapter.base_layer.weight, 0) if adapter.settings.kind == "pissa" else []
    for index, (part, own) in enumerate(adapter.tensors().items()):
        first = own["lora_A.weight"]
        if weights:
            after, before = principal_factors(weights[index], adapter.settings.rank)
            for name, value in (("lora_B.weight", after), ("lora_A.weight", before)):
                own[name].copy_(value * adapter.scale**-0.5)
            own["initial_B"].copy_(own["lora_B.weight"])
            own["initial_A"].copy_(first)
        else:
            bound = adapter.in_features**-0.5
            generator = torch.Generator().manual_seed(_seed(seed, f"{_named_part(layer, part)}.lora_A.weight"))
            first.copy_(torch.empty(first.shape).uniform_(-bound, bound, generator=generator))


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
    new_tokens.merge(model, rounding)
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
    """The trained tensors of all adapters and new tokens, by parameter name."""
    return {f"{name}.rows.weight": layer.rows.weight.detach() for name, layer in new_tokens.modules(model).items()} | {
        f"{name}.{part}": tensor.detach()
        for name, adapter in _adapters(model).items()
        for part, tensor in adapter.named_parameters()
        if not part.startswith("base_layer.")
    }


def base_record(base: Path, dtype: str = "fp32", quantisation: Quantisation | None = None) -> dict[str, str]:
    """The content of adapter_base.json for the artefact `base`, which training held in `dtype` and whose linear layers it held as `quantisation` says."""
    held = {"dtype": dtype if dtype != "fp32" else None, "quantisation": quantisation}
    record = {"name": base.name, "manifest": sha256_file(base / MANIFEST)}
    return record | {key: value for key, value in held.items() if value}


def save_adapter(model: nn.Module, folder: Path, base: Mapping[str, str]) -> None:
    """Write the adapter in peft's layout, with A and B of each projection under our names, and `base` to adapter_base.json.

    `base` has the `manifest` digest of the base model, and may have its `name`, which peft's configuration repeats. PiSSA is saved as the LoRA of rank
    2 R that computes the same on the original weights: A and A0, B and -B0. adapter_base.json then has `kind`, so that `load_adapter` finds the four again.
    """
    adapters = _adapters(model)
    if not adapters:
        raise ValueError("the model has no adapter")
    folder.mkdir(parents=True, exist_ok=True)
    settings = next(iter(adapters.values())).settings
    parts = {
        _named_part(layer, part): own for layer, adapter in adapters.items() for part, own in adapter.tensors().items()
    }
    double, base = 1, dict(base)
    if settings.kind == "pissa":
        double, base["kind"] = 2, "pissa"
        for own in parts.values():
            own["lora_A.weight"] = torch.cat([own["lora_A.weight"], own.pop("initial_A")])
            own["lora_B.weight"] = torch.cat([own["lora_B.weight"], -own.pop("initial_B")], 1)
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
        "target_modules": target_modules(list(parts), _module_names(model)),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    if indices := new_tokens.indices(model):
        config[new_tokens.INDICES] = indices
    tensors = {f"{PREFIX}{name}.{key}": one.clone() for name, own in parts.items() for key, one in own.items()}
    saving.save_tensors(tensors | dict(new_tokens.tensors(model, PREFIX)), folder / WEIGHTS)
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
    config = read_config(folder)
    pissa = (folder / BASE).is_file() and read_base(folder).get("kind") == "pissa"
    settings, known = read_settings(config, folder / CONFIG, pissa), projections(model)
    names = [name for name in known if is_target(name, config["target_modules"])]
    if not names:
        hint = nearest(str(config["target_modules"]), _patterns(known))
        raise ArtifactError(f"{folder / CONFIG}: target_modules name no linear layer of the model{hint}")
    span = new_tokens.span(config, folder / CONFIG)
    return put_adapter(model, settings, {name: name for name in names}, folder / WEIGHTS, span)


@torch.no_grad()
def put_adapter(
    model: nn.Module,
    settings: Adapter,
    names: Mapping[str, str],
    file: Path,
    span: tuple[int, int] | None = None,
    embeddings: Mapping[str, str] | None = None,
) -> list[str]:
    """Attach an adapter with the tensors of a file, where the projection `name` is called `names[name]`, and return the names of its layers.

    `span` is the first id and the number of new tokens, and `embeddings` has the names of their layers in the file. The model is unchanged after an error. Raises `ArtifactError` listing missing, extra and misshapen tensors.
    """
    known, pissa = projections(model), settings.kind == "pissa"
    _refuse_shared(model, dict.fromkeys(known[name].layer for name in names))
    tensors = saving.read_tensors(file)
    expected: dict[str, list[int]] = {}
    for name, saved in names.items():
        expected[f"{PREFIX}{saved}.lora_A.weight"] = [settings.rank * (1 + pissa), known[name].in_features]
        expected[f"{PREFIX}{saved}.lora_B.weight"] = [known[name].rows, settings.rank * (1 + pissa)]
        if settings.kind == "dora":
            expected[f"{PREFIX}{saved}.lora_magnitude_vector"] = [known[name].rows]
    layers = [] if span is None else [(name, (embeddings or {}).get(name, name)) for name in new_tokens.layers(model)]
    for name, saved in layers:
        width = model.get_parameter(f"{name}.weight").shape[1]
        expected[f"{PREFIX}{saved}.{new_tokens.ROWS}"] = [span[1] if span else 0, width]
    saving.check(expected, tensors, file)
    inserted = _insert(model, [known[name] for name in names], settings)
    if span is not None:
        new_tokens.attach(model, *span)
    for name, saved in layers:
        model.get_parameter(f"{name}.rows.weight").copy_(tensors[f"{PREFIX}{saved}.{new_tokens.ROWS}"])
    for layer, adapter in inserted.items():
        for part, own in adapter.tensors().items():
            prefix = f"{PREFIX}{names[_named_part(layer, part)]}."
            found = {name.removeprefix(prefix): tensors[name] for name in expected if name.startswith(prefix)}
            if pissa:
                found["lora_A.weight"], found["initial_A"] = found["lora_A.weight"].chunk(2)
                found["lora_B.weight"], after = found["lora_B.weight"].chunk(2, 1)
                found["initial_B"] = -after
            for name, tensor in own.items():
                tensor.copy_(found[name])
    return list(inserted)


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


def projections(model: nn.Module) -> dict[str, Projection]:
    """The linear layers inside `model`, each projection of a fused one, by name."""
    fused, found = _fused(model), {}
    for name, layer in _linears(model).items():
        for part, rows in (fused.get(name) or {"": layer.out_features}).items():
            found[_named_part(name, part)] = Projection(name, part, rows, layer.in_features)
    return found


def _fused(model: nn.Module) -> dict[str, dict[str, int]]:
    """The rows of the projections of every fused layer."""
    return {
        f"{owner}.{layer}" if owner else layer: rows
        for owner, module in model.named_modules()
        for layer, rows in getattr(module, "fused_rows", {}).items()
        if not isinstance(module, LoraLinear)
    }


def _named_part(layer: str, part: str) -> str:
    return f"{layer}.{part}" if part else layer


def _targets(model: nn.Module, settings: Adapter) -> dict[str, Projection]:
    known, targets = projections(model), settings.targets or (ALL,)
    found = {
        name
        for target in targets
        for name in (_default_targets(model, known) if target == ALL else _named(target, known))
    }
    if not found:
        raise ConfigError("model.adapter.targets: the model's blocks have no linear layer; name the layers")
    chosen = {name: projection for name, projection in known.items() if name in found}
    _refuse_shared(model, dict.fromkeys(one.layer for one in chosen.values()))
    return chosen


def _named(target: str, known: Mapping[str, Projection]) -> list[str]:
    """The projections with a name or a pattern of names, their own or that of their layer. Without any, those with this ending, ours or the published one.

    Raises `ConfigError` for none.
    """
    names = {name: (name, projection.layer) for name, projection in known.items()}
    if found := [name for name, both in names.items() if any(fnmatch.fnmatchcase(one, target) for one in both)]:
        return found
    endings = tuple(f".{ending}" for ending in (target, *SHORT.get(target, ())))
    if found := [name for name, both in names.items() if any(one.endswith(endings) for one in both)]:
        return found
    allowed = _patterns([one for both in names.values() for one in both])
    if "." not in target and "*" not in target:
        ends = [one for both in names.values() for one in both]
        allowed += [name for name, ours in SHORT.items() if any(one.endswith(ours) for one in ends)]
        allowed += sorted({projection.part for projection in known.values() if projection.part})
    raise ConfigError(f"model.adapter.targets: no linear layer is called {target!r}{nearest(target, allowed)}")


def _default_targets(model: nn.Module, known: Mapping[str, Projection]) -> list[str]:
    """All linear layers of `model.blocks()`. In a model without blocks (a model of transformers), all but the output layer."""
    blocks: Any = getattr(model, "blocks", None)
    layers = {name: model.get_submodule(projection.layer) for name, projection in known.items()}
    if blocks is not None:
        listed = blocks.children() if isinstance(blocks, nn.Module) else blocks()
        inside = {id(module) for block in listed for module in block.modules()}
        return [name for name, layer in layers.items() if id(layer) in inside]
    output: Any = getattr(model, "get_output_embeddings", None)
    head = output and output()
    return [name for name, layer in layers.items() if layer is not head]


def _patterns(names: Iterable[str]) -> list[str]:
    """The names of layers with `*` for every index: one name for the same layer of all blocks."""
    return sorted({".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names})


def _refuse_shared(model: nn.Module, names: Iterable[str]) -> None:
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


def _insert(model: nn.Module, chosen: Iterable[Projection], settings: Adapter) -> dict[str, LoraLinear]:
    """Freeze the model, then replace the layers of the projections by adapters."""
    model.requires_grad_(False)
    fused, parts = _fused(model), dict[str, list[str]]()
    for projection in chosen:
        parts.setdefault(projection.layer, []).append(projection.part)
    inserted = {}
    for name, adapted in parts.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, Linear)
        inserted[name] = LoraLinear(layer, settings, fused.get(name), adapted)
        model.set_submodule(name, inserted[name])
    return inserted


def _seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _row_norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=1)


def _module_names(model: nn.Module) -> set[str]:
    """The names of all modules and of the projections of fused layers."""
    parts = {f"{layer}.{part}" for layer, rows in _fused(model).items() for part in rows}
    return parts | {name for name, _ in model.named_modules()}


def target_modules(names: list[str], known: Iterable[str]) -> list[str] | str:
    """`target_modules` of peft that select exactly `names` among the `known` ones: the last parts of the names if possible, as is usual."""
    for targets in (sorted({name.rpartition(".")[-1] for name in names}), names):
        if {name for name in known if is_target(name, targets)} == set(names):
            return targets
    return "|".join(map(re.escape, names))


def is_target(name: str, targets: str | list[str]) -> bool:
    """peft's rule: a list has whole names or endings of names, a string is a regular expression for the whole name."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def read_config(folder: Path) -> dict[str, Any]:
    """peft's configuration. Raises `ArtifactError` for a setting that our adapters lack."""
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


def read_settings(config: Mapping[str, Any], file: Path, pissa: bool) -> Adapter:
    """Our settings of an adapter with peft's configuration, read from `file`. Raises `ArtifactError` for an invalid number."""
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
