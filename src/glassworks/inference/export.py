"""`glassworks export`: a language model for transformers, peft or llama.cpp, with its tokenizer, chat template and end tokens."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from glassworks.artifacts.digests import write_json, write_text
from glassworks.data.reading.text import GENERATION
from glassworks.errors import ArtifactError, ConfigError
from glassworks.inference.gguf import Precision, write_gguf
from glassworks.inference.language_models import Opened, open_language_model
from glassworks.inference.model_folders import find_model
from glassworks.models import adapters, new_tokens
from glassworks.models.captioner import KIND as CAPTIONER
from glassworks.models.language_model import KIND, LanguageModel
from glassworks.models.pretrained.language_models import export_language_model
from glassworks.models.pretrained.published_adapters import is_published, publish_adapter

Format = Literal["transformers", "adapter", "gguf"]
MODE = 0o644
"""Permissions of an exported file."""
COMPARED = 256
"""Tokens on which a merged model is compared with the adapter on its base."""


class Exported(NamedTuple):
    """What was exported."""

    architecture: str
    """Its name in the layout."""
    merged: str | None
    """For a merged adapter: the base, and how the merged model differs from the adapter."""
    facts: list[str]
    """What README.md says of model and texts."""
    use: str
    """README.md's example, as Markdown."""


def run(
    directory: Path,
    target: Path,
    project: Path,
    form: Format = "transformers",
    base: Path | None = None,
    precision: Precision = "f16",
) -> Exported:
    """Write a model to the new folder `target`. An adapter is merged into its base, or for `adapter` exported as it is.

    `precision` is that of a GGUF. Raises `ConfigError` if the layout has no architecture for the model.
    """
    _check(directory, target, project, form)
    opened = open_language_model(directory, project, base)
    if form == "adapter":
        return _export_adapter(directory, target, opened)
    merged = None if opened.base is None else f"Merged onto {opened.base}: {_merge(opened.model)}."
    if form == "gguf":
        file = target / f"{directory.resolve().name}-{precision.upper()}.gguf"
        architecture = write_gguf(opened, file, precision)
        use = f"```bash\nllama-cli --model {file.name}\n```\n"
    else:
        export_language_model(opened.model, target, **_special_ids(opened))
        _save_tokenizer(opened, target)
        [architecture] = find_model(target, project)["architectures"]
        use = _example('AutoModelForCausalLM.from_pretrained(".")', opened)
    model = opened.model
    count = sum(parameter.numel() for parameter in model.parameters())
    first = f"A language model, exported by glassworks as {architecture}."
    shape = (
        f"{count:,} parameters, a context of {model.config.max_tokens:,} tokens, a vocabulary of {model.vocabulary:,}"
    )
    facts = [shape, *([merged] if merged else []), *_text_facts(opened)]
    write_text(target / "README.md", _card(directory, first, facts, use))
    _readable(target)
    return Exported(str(architecture), merged, facts, use)


def _check(directory: Path, target: Path, project: Path, form: Format) -> None:
    adapted = (directory / adapters.CONFIG).is_file()
    if form == "adapter":
        if not adapted:
            find_model(directory, project)
            raise ConfigError(f"--format adapter: {directory} holds a whole model and no adapter")
        if is_published(directory):
            raise ConfigError(f"--format adapter: {directory} has the layout of peft already")
    elif not adapted:
        config = find_model(directory, project)
        if config.get("model") == CAPTIONER:
            raise ArtifactError(f"{directory}: {CAPTIONER}; only language models are exported")
        if form == "transformers" and config.get("model") != KIND:
            kind = config.get("model") or config.get("model_type") or config.get("architecture") or "a foreign model"
            raise ArtifactError(f"{directory}: {kind}; only language models trained here are exported to transformers")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"{target}: is there already; choose a new folder")


def _export_adapter(directory: Path, target: Path, opened: Opened) -> Exported:
    assert opened.base is not None
    name, revision = opened.base.published
    architecture = publish_adapter(directory, target, name, revision)
    write_json(target / adapters.BASE, adapters.read_base(directory))
    _save_tokenizer(opened, target)
    at = f'"{name}"' + (f', revision="{revision}"' if revision else "")
    use = _example(f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({at}), ".")', opened)
    use = use.replace("```python\n", "```python\nfrom peft import PeftModel\n")
    trained = sum(tensor.numel() for tensor in adapters.adapter_tensors(opened.model).values())
    first = f"An adapter trained with glassworks, in the layout of peft for {architecture}."
    facts = [f"{trained:,} trained parameters", f"Trained on {opened.base}."]
    if any(one.end > len(one.base_layer.weight) for one in new_tokens.modules(opened.model).values()):
        rows = f"resize_token_embeddings({opened.model.vocabulary}, mean_resizing=False)"
        facts.append(f"The base has no rows for the new tokens: call `{rows}` on it before peft loads the adapter.")
    facts += _text_facts(opened)
    write_text(target / "README.md", _card(directory, first, facts, use))
    _readable(target)
    return Exported(architecture, None, facts, use)


@torch.no_grad()
def _merge(model: LanguageModel) -> str:
    """Merge the adapter of a model in place; returns how the logits of random tokens differ."""
    ids = torch.randint(
        model.vocabulary, (1, min(COMPARED, model.config.max_tokens)), generator=torch.Generator().manual_seed(0)
    )
    before: Tensor = model(ids)[0]
    adapters.merge(model)
    after: Tensor = model(ids)[0]
    same = int((before.argmax(-1) == after.argmax(-1)).sum())
    return (
        f"at {same} of {len(before)} random tokens the likeliest next token is that of the adapter on its base; "
        f"the largest difference of a logit is {float((before - after).abs().max()):.1e}"
    )


def _special_ids(opened: Opened) -> dict[str, Any]:
    """BOS, padding and every end token, under the names of transformers' configurations."""
    ends = opened.ends
    return {**opened.tokenizer.special_ids(), "eos_token_id": ends[0] if len(ends) == 1 else list(ends)}


def _save_tokenizer(opened: Opened, target: Path) -> None:
    """The tokenizer, its chat template and generation_config.json with all end tokens."""
    source = None if opened.template is None else opened.template.source
    opened.tokenizer.save(target, source, opened.adds_bos if opened.trained_here else None)
    write_json(target / GENERATION, _special_ids(opened))


def _readable(target: Path) -> None:
    for file in target.iterdir():
        file.chmod(MODE)  # safetensors and atomic writes leave files that only their owner reads


def _example(model: str, opened: Opened) -> str:
    """How to use the folder in Python."""
    if opened.template is not None:
        begin = 'messages = [{"role": "user", "content": "Hello"}]\n'
        begin += 'ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)'
    else:
        begin = 'ids = tokenizer("A text that begins", return_tensors="pt", return_token_type_ids=False)'
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = {model}, AutoTokenizer.from_pretrained(".")
{begin}
text = model.generate(**ids, max_new_tokens=64)
print(tokenizer.decode(text[0], skip_special_tokens=True))
```
"""


def _text_facts(opened: Opened) -> list[str]:
    ends = ", ".join(f"`{opened.tokenizer.name_of(token)}`" for token in opened.ends)
    return [
        "Texts begin with BOS. The tokenizer adds it." if opened.adds_bos else "The tokenizer adds no BOS.",
        f"Texts end with {ends}.",
        *(["The chat template is inside."] if opened.template is not None else []),
    ]


def _card(directory: Path, first: str, facts: list[str], use: str) -> str:
    """README.md of the exported folder."""
    listed = "\n".join(f"- {fact}" for fact in facts)
    return f"# {directory.resolve().name}\n\n{first}\n\n{listed}\n\n{use}"
