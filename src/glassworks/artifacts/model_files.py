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


def read_hub_list(directory: Path, name: str) -> list[dict[str, Any]]:
    """The content of a JSON file with a list of mappings. Raises `ArtifactError` for another content."""
    content = _json(directory / name)
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise ArtifactError(f"{directory / name}: not a list of mappings")
    return content


def read_timm_config(directory: Path) -> dict[str, Any]:
    """config.json of a model of timm, with `architecture`, `model_args` and `pretrained_cfg`. The older flat form is lifted, as timm does."""
    hub = read_hub_config(directory)
    if "architecture" in hub and not isinstance(hub.get("pretrained_cfg"), dict):
        rest = {
            name: value for name, value in hub.items() if name not in ("architecture", "model_args", "pretrained_cfg")
        }
        hub = {"architecture": hub["architecture"], "model_args": hub.get("model_args"), "pretrained_cfg": rest}
    return hub


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
