"""`glassworks export`: a trained language model and its tokenizer in the layout of transformers."""

from pathlib import Path

from glassworks.artifacts.digests import write_json, write_text
from glassworks.data.reading.text import GENERATION, TextTokenizer, check_vocabulary
from glassworks.errors import ArtifactError
from glassworks.inference.model_folders import find_model, find_tokenizer
from glassworks.models.language_model import KIND, LanguageModel
from glassworks.models.pretrained.language_models import export_language_model, load_language_model

MODE = 0o644
"""Permissions of an exported file."""


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
    export_language_model(model, target, **tokenizer.special_ids())
    tokenizer.save(target)
    write_json(target / GENERATION, tokenizer.special_ids())
    [architecture] = find_model(target, project)["architectures"]
    write_text(target / "README.md", _card(directory.resolve().name, str(architecture), model))
    for file in target.iterdir():
        file.chmod(MODE)  # safetensors and atomic writes leave files that only their owner reads
    return str(architecture)


def _card(name: str, architecture: str, model: LanguageModel) -> str:
    """README.md of the exported folder."""
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"""# {name}

A language model trained with glassworks and exported as {architecture}.

- {count:,} parameters, a context of {model.config.max_tokens:,} tokens, a vocabulary of {model.vocabulary:,}
- Texts begin with BOS. The tokenizer adds it.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
text = model.generate(**tokenizer("A text that begins", return_tensors="pt", return_token_type_ids=False), max_new_tokens=64)
print(tokenizer.decode(text[0], skip_special_tokens=True))
```
"""
