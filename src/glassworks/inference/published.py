"""Reads published weights once, as training and the encoders do later, to refuse them where they enter the project."""

import difflib
from pathlib import Path

from glassworks.artifacts.model_files import CONFIG, read_hub_config, read_timm_config
from glassworks.data.reading.text import TextTokenizer, check_vocabulary, has_tokenizer
from glassworks.errors import ArtifactError
from glassworks.models.language_model import KIND
from glassworks.models.pretrained.backbones import load_backbone, read_arguments
from glassworks.models.pretrained.language_models import PREFIXES, check_language_model
from glassworks.models.pretrained.vision import TYPES as CLIP
from glassworks.models.pretrained.vision import load_vision_transformer
from glassworks.models.pretrained.whisper import load_whisper_encoder
from glassworks.models.sentence_encoder import MODULES, SentenceEncoder


def check_published(directory: Path) -> None:
    """Raise the error that the reader of these weights would raise later.

    A language model is read with its tokenizer, if it has one. A type that neither we nor transformers know passes: an encoder of the project may read it.
    """
    hub = read_hub_config(directory)
    kind = hub.get("model_type")
    if "architecture" in hub:
        _check_timm(directory)
    elif kind == "whisper":
        load_whisper_encoder(directory)
    elif (directory / MODULES).is_file():
        SentenceEncoder.load(directory)
    elif (
        kind in (*PREFIXES, "gemma3")
        or hub.get("model") == KIND
        or str(hub.get("architectures")).endswith("ForCausalLM']")
    ):
        vocabulary = check_language_model(directory)
        if has_tokenizer(directory):
            check_vocabulary(TextTokenizer(directory), vocabulary, directory)
    elif kind in CLIP or "patch_size" in hub or "vision_config" in hub:
        load_vision_transformer(directory)
    elif kind is not None and _transformers_knows(kind):
        SentenceEncoder.load(directory)


def _check_timm(directory: Path) -> None:
    import timm

    from glassworks.models.backbone import Backbone
    from glassworks.models.settings.backbone import Backbone as Config

    hub = read_timm_config(directory)
    name = str(hub["architecture"]).partition(".")[0]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ArtifactError(f"{directory / CONFIG}: timm has no model {name!r}{hint}")
    known = timm.get_pretrained_cfg(name)
    size = (hub.get("pretrained_cfg") or {}).get("input_size") or (known.input_size if known else (3, 224, 224))
    config = read_arguments(Config(name=name, image_size=size[-1]), directory)
    load_backbone(Backbone(config), directory)


def _transformers_knows(kind: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES
