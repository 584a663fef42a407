"""The files of a model in the hub's layout: selection, writing, copying and counting of tensors."""

import math
import pickle
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glassworks.artifacts.digests import write_json
from glassworks.artifacts.finite import check_finite
from glassworks.artifacts.model_files import CONFIG, INDEX, WEIGHTS, read_hub_config, weight_files
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import track

if TYPE_CHECKING:
    from torch import Tensor

BESIDES = (
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
"""Optional files that are copied if present: the tokenizer's, and the settings of generation and preprocessing."""
SHARD = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|bin)")
"""Names of shards on the hub. A local index may list others."""
HINTS = {
    r"adapter_(config|model)": "an adapter of peft; merge it into its base with `merge_and_unload()` and save the result",
    r"open_clip": "a model of open_clip; convert it to transformers' CLIP",
    r"\.(fp16|bf16|fp32|int8)\.(safetensors|bin)$": f"a variant; save it as {WEIGHTS}",
    r"\.(pt|pth|ckpt)$": f"a checkpoint of PyTorch without its configuration; save the model with `save_pretrained`, which writes {CONFIG}",
    r"\.gguf$": "quantized for llama.cpp; take the repository with safetensors",
}
"""Other files that hold weights, by pattern."""
CHECKPOINT_INDEX = "pytorch_model.bin.index.json"
CHECKPOINT = "pytorch_model.bin"
"""PyTorch's own format in older repositories, read as tensors only and stored as safetensors."""


def write_model(directory: Path, config: dict[str, Any], tensors: "dict[str, Tensor]") -> None:
    """Write config.json and model.safetensors."""
    from safetensors.torch import save_file

    write_json(directory / CONFIG, config)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS, {"format": "pt"})


def wanted(names: list[str], where: str) -> list[str]:
    """The selected files of a model: config, weights (one file if there is one, else shards) and optional files."""
    if CONFIG not in names:
        raise DataError(f"{where}: no {CONFIG} there; a model in the hub's layout has one{_hint(names)}")
    if WEIGHTS in names:
        weights = [WEIGHTS]
    elif INDEX in names:
        weights = [INDEX, *(name for name in names if SHARD.fullmatch(name) and name.endswith(".safetensors"))]
    elif CHECKPOINT in names:
        weights = [CHECKPOINT]
    elif CHECKPOINT_INDEX in names:
        weights = [CHECKPOINT_INDEX, *(name for name in names if SHARD.fullmatch(name) and name.endswith(".bin"))]
    else:
        raise DataError(
            f"{where}: no {WEIGHTS} there, no {INDEX}, no {CHECKPOINT}; weights of other formats are not read{_hint(names)}"
        )
    return [CONFIG, *weights, *(name for name in BESIDES if name in names)]


def _hint(names: list[str]) -> str:
    """What the files seem to be instead, and the remedy."""
    for pattern, hint in HINTS.items():
        found = next((name for name in names if re.search(pattern, name)), None)
        if found is not None:
            return f". {found} is {hint}"
    return ""


def _local_shards(folder: Path, names: list[str]) -> list[str]:
    """The shards that the index of a local folder lists, whatever their names."""
    if WEIGHTS in names or INDEX not in names:
        return []
    listed = (read_hub_config(folder, INDEX).get("weight_map") or {}).values()
    return sorted({name for name in map(str, listed) if name in names})


def copy_local(context: Context) -> None:
    """Copy a model from the user's folder."""
    folder = context.local_path
    where = f"params.yaml: weights.{context.stage.subject}.path: {context.stage.local_path}"
    if not folder.is_dir():
        raise DataError(f"{where} is no folder; expected one with {CONFIG} and {WEIGHTS}")
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    files = list(dict.fromkeys([*wanted(names, where), *_local_shards(folder, names)]))
    for name in track(files, f"copy {context.stage.subject}", len(files), "files"):
        (context.output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, context.output / name)


def convert_checkpoint(directory: Path) -> None:
    """Replace pytorch_model.bin or its shards, if present, by model.safetensors. Raises `DataError` unless they are dicts of tensors."""
    files = [directory / CHECKPOINT] if (directory / CHECKPOINT).is_file() else []
    if (directory / CHECKPOINT_INDEX).is_file():
        listed = (read_hub_config(directory, CHECKPOINT_INDEX).get("weight_map") or {}).values()
        files = [directory / name for name in sorted(set(map(str, listed)))]
        (directory / CHECKPOINT_INDEX).unlink()
    if not files:
        return
    from safetensors.torch import save_file

    tensors = {name: tensor for file in files for name, tensor in _tensors(file).items()}
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS, {"format": "pt"}
    )
    for file in files:
        file.unlink()


def _tensors(file: Path) -> "dict[str, Tensor]":
    """The tensors of a PyTorch checkpoint."""
    import torch

    if not file.is_file():
        raise DataError(f"{file.name}: {CHECKPOINT_INDEX} lists it, and it is not there")
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError, EOFError):
        tensors = None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise DataError(
            f"{file.name}: damaged, or more than tensors by name, which is never read; convert it to {WEIGHTS}"
        )
    return tensors


def check(directory: Path) -> dict[str, Any]:
    """Counts of tensors and parameters. Raises `ArtifactError` or `DataError` naming an invalid file, or tensors with NaN or infinite values."""
    read_hub_config(directory)
    shapes = [shape for file in weight_files(directory) for shape in _shapes(file)]
    from safetensors.torch import load_file

    for file in weight_files(directory):
        check_finite(load_file(file), file.name)
    return {"tensors": len(shapes), "parameters": sum(map(math.prod, shapes))}


def _shapes(file: Path) -> list[list[int]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118 (it has no iterator)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: not a safetensors file ({error})") from None
