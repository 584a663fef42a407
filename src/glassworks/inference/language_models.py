"""Opens a language model with its tokenizer and chat template: a whole model, or an adapter and its base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import sha256_file
from glassworks.artifacts.manifest import MANIFEST, read_recipe
from glassworks.data.reading.chat import ChatTemplate
from glassworks.data.reading.text import TextTokenizer, check_vocabulary, has_tokenizer
from glassworks.errors import ArtifactError, ConfigError, DataError
from glassworks.inference.model_folders import find_model, find_tokenizer
from glassworks.models import adapters, saving
from glassworks.models.captioner import KIND as CAPTIONER
from glassworks.models.language_model import KIND, LanguageModel
from glassworks.models.pretrained.language_models import load_language_model
from glassworks.models.pretrained.published_adapters import is_published, load_published_adapter
from glassworks.models.vision_language import KIND as SEEING


@dataclass(frozen=True)
class Base:
    """The base of an adapter."""

    folder: Path
    manifest: str | None
    """Digest of its manifest; None for a folder without one."""
    dtype: str
    """The precision in which training held it."""

    @property
    def published(self) -> tuple[str, str | None]:
        """What transformers opens: the repository and the revision of weights from the hub, else the name of the base."""
        params = (read_recipe(self.folder) or {}).get("params") or {}
        if params.get("source") == "hub":
            return str(params["repository"]), params.get("revision")
        return self.folder.resolve().name, None

    def __str__(self) -> str:
        digest = f" (manifest {self.manifest[:12]})" if self.manifest else ""
        return f"{self.folder.resolve().name}{digest}{'' if self.dtype == 'fp32' else f' in {self.dtype}'}"


@dataclass(frozen=True)
class Opened:
    """A language model, its tokenizer and its chat template."""

    model: LanguageModel
    tokenizer: TextTokenizer
    template: ChatTemplate | None
    trained_here: bool
    """Whether texts begin with BOS, as in training here."""
    base: Base | None
    """The base of an adapter."""

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids that end a text: those of the tokenizer, then the stop token of the template."""
        stop = stop_token(self.template)
        return self.tokenizer.ends if stop is None else tuple(dict.fromkeys([*self.tokenizer.ends, stop]))

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer puts BOS before a text. A chat template writes BOS itself, where training had it."""
        if self.trained_here:
            return self.template is None
        return self.tokenizer.prompt("a")[:1] == [self.tokenizer.bos]


def stop_token(template: ChatTemplate | None) -> int | None:
    """The token that ends an answer in a chat; None where the template ends answers with no token."""
    try:
        return None if template is None else template.stop
    except DataError:
        return None


def open_language_model(directory: Path, project: Path, base: Path | None = None, merged: bool = False) -> Opened:
    """Open a model, or an adapter on its base, or `merged` into it.

    `base` is the folder of the base; by default, the base that an adapter trained here names. Raises `ArtifactError` if there is no model, tokenizer
    or base, and `ConfigError` for a base of a model that is whole.
    """
    if not (directory / adapters.CONFIG).is_file():
        return _open_whole(directory, project, base, merged)
    found = _base(directory, base)
    find_model(found.folder, project)
    if is_published(directory):
        model, here = load_published_adapter(directory, found.folder, merged), False
    else:
        model, here = load_language_model(directory, found.folder, merged), True
    return _opened(directory, directory if has_tokenizer(directory) else found.folder, model, here, found)


def _open_whole(directory: Path, project: Path, base: Path | None, merged: bool) -> Opened:
    config = find_model(directory, project)
    if base is not None or merged:
        option = "--base" if base is not None else "--merge"
        raise ConfigError(f"{option}: {directory} holds a whole model and no adapter; leave {option} out")
    if config.get("model") == CAPTIONER:
        raise ArtifactError(f"{directory}: this model captions images; `glassworks caption {directory} IMAGE` asks it")
    if config.get("model") == SEEING:
        raise ArtifactError(
            f"{directory}: this model answers questions about images; `glassworks ask {directory} IMAGE QUESTION` asks it"
        )
    return _opened(directory, directory, load_language_model(directory), config.get("model") == KIND, None)


def _opened(directory: Path, beside: Path, model: LanguageModel, here: bool, base: Base | None) -> Opened:
    """`beside` is the folder whose tokenizer is used."""
    folder = find_tokenizer(beside)
    tokenizer = TextTokenizer(folder)
    check_vocabulary(tokenizer, model.vocabulary, directory)
    template = ChatTemplate.of(directory, tokenizer) or ChatTemplate.of(folder, tokenizer)
    return Opened(model.eval(), tokenizer, template, here, base)


def _base(directory: Path, base: Path | None) -> Base:
    record: dict[str, Any] = adapters.read_base(directory) if (directory / adapters.BASE).is_file() else {}
    if base is None:
        if is_published(directory):
            name = saving.read_config(directory, "an adapter", adapters.CONFIG).get("base_model_name_or_path")
            raise ArtifactError(f"{directory}: an adapter of {name}; name the folder of that model with --base")
        base = adapters.find_base(directory)
    manifest = sha256_file(base / MANIFEST) if (base / MANIFEST).is_file() else None
    return Base(base, manifest, str(record.get("quantisation") or record.get("dtype", "fp32")))
