"""Finds the model folder and the tokenizer for a command, and parses decoding options."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from glassworks.artifacts.digests import sha256_file
from glassworks.artifacts.manifest import MANIFEST, read_recipe
from glassworks.artifacts.model_files import CONFIG, read_hub_config
from glassworks.config.base import nearest
from glassworks.data.reading.text import FILES, has_tokenizer
from glassworks.errors import ArtifactError, ConfigError
from glassworks.generation.settings import Decoding

ROOMS = ("models", "data/weights")
"""Folders of a project that hold trained models and published weights."""


def find_model(directory: Path, project: Path) -> dict[str, Any]:
    """The content of config.json in a model folder. Raises `ArtifactError` if there is no model; the message suggests a similar name."""
    if (directory / CONFIG).is_file():
        return read_hub_config(directory)
    if directory.is_dir():
        raise ArtifactError(f"{directory}: no {CONFIG} in this folder, so it holds no model")
    known = {
        folder.name: f"{room}/{folder.name}"
        for room in ROOMS
        for folder in sorted(project.glob(f"{room}/*"))
        if (folder / CONFIG).is_file()
    }
    hint = nearest(directory.name, list(known))
    for name, path in known.items():
        hint = hint.replace(f"'{name}'", path)
    raise ArtifactError(f"{directory}: no such model folder{hint}")


def find_tokenizer(directory: Path) -> Path:
    """The folder of a model's tokenizer: the model folder itself, or the tokenizer or weights that the recipe of the model names by digest."""
    if has_tokenizer(directory):
        return directory
    wanted = ((read_recipe(directory) or {}).get("inputs") or {}).get(f"tokenizer/{MANIFEST}")
    data = directory.resolve().parent.parent / "data"
    for manifest in sorted([*data.glob(f"tokenizers/*/{MANIFEST}"), *data.glob(f"weights/*/{MANIFEST}")]):
        if sha256_file(manifest) == wanted:
            return manifest.parent
    raise ArtifactError(
        f"{directory}: no {FILES[0]} there; put the tokenizer that the model was trained with beside it"
    )


def decoding(**options: Any) -> Decoding:
    """The decoding settings of a command line. Raises `ConfigError` with one line per invalid option."""
    try:
        return Decoding(**options)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(fault) for fault in error.errors())) from None


def _line(fault: Any) -> str:
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not fault["loc"]:
        return message
    return f"--{str(fault['loc'][0]).replace('_', '-')} {fault['input']}: {message}"
