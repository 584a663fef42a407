"""Finds the model folder, the tokenizer and the towers for a command, and parses decoding options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from glassworks.artifacts.digests import digest_json, sha256_file
from glassworks.artifacts.manifest import MANIFEST, read_manifest, read_recipe
from glassworks.artifacts.model_files import CONFIG, read_hub_config
from glassworks.config.base import nearest
from glassworks.data.reading.text import FILES, GENERATION, has_tokenizer
from glassworks.encoders.tower import Tower, trained_tower
from glassworks.errors import ArtifactError, ConfigError
from glassworks.generation.settings import Decoding

ROOMS = ("models", "data/weights")
"""Folders of a project that hold trained models and published weights."""

NOT_APPLIED = {
    "bad_words_ids": [],
    "begin_suppress_tokens": [],
    "encoder_repetition_penalty": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "exponential_decay_length_penalty": [],
    "forced_bos_token_id": [],
    "forced_eos_token_id": [],
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "penalty_alpha": 0,
    "sequence_bias": {},
    "suppress_tokens": [],
    "top_h": 1,
    "typical_p": 1,
}
"""Keys of generation_config.json that change a text and that our decoding lacks, with the value that changes nothing."""


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
    data = project_of(directory) / "data"
    for manifest in sorted([*data.glob(f"tokenizers/*/{MANIFEST}"), *data.glob(f"weights/*/{MANIFEST}")]):
        if sha256_file(manifest) == wanted:
            return manifest.parent
    raise ArtifactError(
        f"{directory}: no {FILES[0]} there; put the tokenizer that the model was trained with beside it"
    )


def find_tower(directory: Path, described: Mapping[str, Any]) -> Tower:
    """The tower that a model was trained with, as its config.json describes it, with weights by digest.

    Raises `ArtifactError` if the weights are not in the project of the model.
    """
    weights = project_of(directory) / "data/weights"
    for manifest in sorted(weights.glob(f"*/{MANIFEST}")):
        if digest_json(read_manifest(manifest.parent).files) == described["weights"]:
            return trained_tower(described, manifest.parent)
    raise ArtifactError(
        f"{directory}: the weights of its encoder {described['encoder']!r} are not in {weights}; make them with `glassworks weights NAME`"
    )


def project_of(directory: Path) -> Path:
    """The project that a model folder belongs to."""
    return directory.resolve().parent.parent


def published_decoding(directory: Path, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The decoding options that generation_config.json adds to the `given` ones, as in transformers, and a line about them, empty if there is nothing to say.

    Raises `ConfigError` for a value that is no number.
    """
    if not (directory / GENERATION).is_file():
        return {}, ""
    hub = {name: value for name, value in read_hub_config(directory, GENERATION).items() if value is not None}
    drawn = bool(hub.get("do_sample")) and given.get("temperature") != 0 and given.get("beams") in (None, 1)
    found: dict[str, Any] = {}
    if drawn:
        found = {"temperature": 1.0, "top_k": 50}  # the defaults of transformers
        found |= {name: hub[name] for name in ("temperature", "top_k", "top_p", "min_p") if name in hub}
    elif hub.get("num_beams", 1) != 1 and not hub.get("do_sample") and not given.get("temperature"):
        found = {"beams": hub["num_beams"], "length_penalty": hub.get("length_penalty", 1.0)}
    found |= {name: hub[name] for name in ("repetition_penalty", "max_new_tokens", "min_new_tokens") if name in hub}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{directory / GENERATION}: {name} is {value!r}, not a number")
        if isinstance(Decoding.model_fields[name].default, float):
            found[name] = float(value)
    if found.get("top_k") == 0:
        found["top_k"] = None
    found = {name: value for name, value in found.items() if name not in given}
    changed = {name: value for name, value in found.items() if value != Decoding.model_fields[name].default}
    lost = [name for name, neutral in NOT_APPLIED.items() if hub.get(name, neutral) != neutral]
    lost += ["num_beams"] if drawn and hub.get("num_beams", 1) != 1 else []
    line = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items())
    line += ("; " if line and lost else "") + (f"not applied: {', '.join(lost)}" if lost else "")
    return found, f"{directory / GENERATION}: {line}" if line else ""


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
