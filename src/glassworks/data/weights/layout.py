"""The files of a model in the hub's layout: selection, writing, copying and counting of tensors."""

import math
import pickle
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
    "1_Pooling/config.json",
)
"""Optional files that are copied if present: the tokenizer's, and the settings of generation and preprocessing."""
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
        raise DataError(f"{where}: no {CONFIG} there; a model in the hub's layout has one")
    if WEIGHTS in names:
        weights = [WEIGHTS]
    elif INDEX in names:
        weights = [INDEX, *(name for name in names if name.startswith("model-") and name.endswith(".safetensors"))]
    elif CHECKPOINT in names:
        weights = [CHECKPOINT]
    else:
        raise DataError(
            f"{where}: no {WEIGHTS} there, no {INDEX}, no {CHECKPOINT}; weights of other formats are not read"
        )
    return [CONFIG, *weights, *(name for name in BESIDES if name in names)]


def copy_local(context: Context) -> None:
    """Copy a model from the user's folder."""
    folder = context.local_path
    where = f"params.yaml: weights.{context.stage.subject}.path: {context.stage.local_path}"
    if not folder.is_dir():
        raise DataError(f"{where} is no folder; expected one with {CONFIG} and {WEIGHTS}")
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    files = wanted(names, where)
    for name in track(files, f"copy {context.stage.subject}", len(files), "files"):
        (context.output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, context.output / name)


def convert_checkpoint(directory: Path) -> None:
    """Replace pytorch_model.bin, if present, by model.safetensors. Raises `DataError` unless it is a dict of tensors."""
    file = directory / CHECKPOINT
    if not file.is_file():
        return
    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError, EOFError):
        tensors = None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise DataError(
            f"{CHECKPOINT}: damaged, or more than tensors by name, which is never read; convert it to {WEIGHTS}"
        )
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in tensors.items()}, directory / WEIGHTS, {"format": "pt"}
    )
    file.unlink()


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
