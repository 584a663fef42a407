"""`glassworks export`: a trained language model and its tokenizer in the layout of transformers."""

from pathlib import Path

from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.errors import ArtifactError
from glassworks.inference.model_folders import find_model, find_tokenizer
from glassworks.models.language_model import KIND
from glassworks.models.pretrained.language_models import export_language_model, load_language_model


def run(directory: Path, target: Path, project: Path) -> str:
    """Write the model to the new folder `target`; returns its transformers architecture. Raises `ConfigError` if transformers has no matching one."""
    config = find_model(directory, project)
    if config.get("model") != KIND:
        what = config.get("model") or config.get("model_type") or config.get("architecture") or "a foreign model"
        raise ArtifactError(f"{directory}: {what}; only language models trained here are exported")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"{target}: is there already; choose a new folder")
    model, tokenizer = load_language_model(directory), TextTokenizer(find_tokenizer(directory))
    check_vocabulary(tokenizer, model.vocabulary, directory)
    ends = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    export_language_model(model, target, **ends)
    tokenizer.save(target)
    return str(find_model(target, project)["architectures"][0])
