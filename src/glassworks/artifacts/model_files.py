"""Reads a model in the layout of the Hugging Face hub: config.json, and model.safetensors or shards with their index."""

import json
from pathlib import Path
from typing import Any

from glassworks.errors import ArtifactError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def read_hub_config(directory: Path, name: str = CONFIG) -> dict[str, Any]:
    """The content of config.json or of another small JSON file. Raises `ArtifactError` if the file is missing or not a mapping."""
    config = _json(directory / name)
    if not isinstance(config, dict):
        raise ArtifactError(f"{directory / name}: not the configuration of a model")
    return config


def weight_files(directory: Path) -> list[Path]:
    """model.safetensors, or the shards listed in the index. Raises `ArtifactError` if a file is missing."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if not (directory / INDEX).is_file():
        raise ArtifactError(
            f"{directory}: neither {WEIGHTS} nor {INDEX} there; weights are read from safetensors alone"
        )
    index = _json(directory / INDEX)
    listed = index.get("weight_map") if isinstance(index, dict) else None
    if not listed or not isinstance(listed, dict):
        raise ArtifactError(f"{directory / INDEX}: lists no shards")
    shards = sorted(set(map(str, listed.values())))
    for name in shards:
        if Path(name).name != name or not (directory / name).is_file():
            raise ArtifactError(f"{directory / INDEX}: lists {name!r}, which is not there")
    return [directory / name for name in shards]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: not readable as JSON ({error})") from None
