"""A captioner initialised from trained parts: a backbone, a language model, or both."""

from pathlib import Path

from glassworks.artifacts.model_files import read_hub_config
from glassworks.models import saving
from glassworks.models.backbone import Backbone
from glassworks.models.captioner import Captioner
from glassworks.models.language_model import KIND
from glassworks.models.pretrained.backbones import load_backbone
from glassworks.models.pretrained.language_models import decoder_config, load_language_model
from glassworks.models.settings.captioner import Captioner as Config
from glassworks.models.settings.text_decoder import TextDecoder

NEW = frozenset({"cross_norm", "cross_attention", "gate"})
"""Parts of a decoder block that a language model lacks."""


def read_decoder(directory: Path) -> tuple[TextDecoder, int]:
    """The decoder shape and the number of token embeddings of a language model in a directory. Reads no tensors."""
    config = read_hub_config(directory)
    if config.get("model") == KIND:
        return saving.read_settings(directory, KIND, TextDecoder)
    return decoder_config(config, directory), config["vocab_size"]


def begin_captioner(
    config: Config, vocabulary: int, language_model: Path | None = None, backbone: Path | None = None
) -> Captioner:
    """A new captioner with the weights of its parts. While all gates are 0, the decoder computes the original language model."""
    model = Captioner(config, vocabulary)
    if backbone is not None:
        assert isinstance(model.encoder, Backbone)
        load_backbone(model.encoder, backbone)
    if language_model is not None:
        tensors = load_language_model(language_model).decoder.state_dict()
        new = {name for name in model.decoder.state_dict() if NEW & set(name.split("."))}
        saving.assign(model.decoder, tensors, language_model, new)
        model.close_gates()
    return model
