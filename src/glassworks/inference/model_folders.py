"""Which model a person means, how it is to decode, and the tokenizer that belongs to it."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from glassworks.artifacts.model_files import CONFIG, read_hub_config
from glassworks.config.base import nearest
from glassworks.data.reading.text import FILES, TextTokenizer
from glassworks.errors import ArtifactError, ConfigError
from glassworks.generation.settings import Decoding

ROOMS = ("models", "data/weights")
"""Where trained models and published weights lie in a project."""


def find_model(directory: Path, project: Path) -> dict[str, Any]:
    """config.json of the model in a folder; an `ArtifactError` proposes a near name when there is none."""
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
    """The folder of a model's tokenizer: its own, or that of its experiment."""
    own, made = directory / FILES[0], directory.resolve().parents[1] / "data/tokenizers" / directory.resolve().name
    if own.is_file():
        return directory
    if (made / FILES[0]).is_file():
        return made
    raise ArtifactError(
        f"{directory}: no {FILES[0]} there; put the tokenizer that the model was trained with beside it"
    )


def begins_with(directory: Path, tokenizer: TextTokenizer, trained_here: bool) -> tuple[list[int], bool]:
    """What a prompt begins with, and whether a text can begin from nothing: whether the tokenizer names a BOS.

    Our texts begin with BOS. Those of a published model begin as its tokenizer has it: Llama's puts BOS before every text, GPT-2's and SmolLM2's do not.
    """
    from tokenizers import Tokenizer

    if trained_here:
        return [tokenizer.bos], True
    template = Tokenizer.from_file(str(directory / FILES[0])).encode("").ids
    named = bool(json.loads((directory / FILES[1]).read_text()).get("bos_token"))
    return [token for token in template if token == tokenizer.bos], named


def decoding(**options: Any) -> Decoding:
    """The settings of a command line; a `ConfigError` has a line for each option that cannot be."""
    try:
        return Decoding(**options)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(fault) for fault in error.errors())) from None


def _line(fault: Any) -> str:
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not fault["loc"]:
        return message
    return f"--{str(fault['loc'][0]).replace('_', '-')} {fault['input']}: {message}"
