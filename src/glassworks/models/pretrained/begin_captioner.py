"""A captioner initialised from trained parts: a backbone, a language model, or both."""

from pathlib import Path

from glassworks.models import saving
from glassworks.models.backbone import Backbone
from glassworks.models.captioner import Captioner
from glassworks.models.pretrained.backbones import load_backbone, read_arguments
from glassworks.models.pretrained.language_models import load_language_model
from glassworks.models.settings.captioner import Captioner as Config

NEW = frozenset({"cross_norm", "cross_attention", "gate"})
"""Parts of a decoder block that a language model lacks."""


def begin_captioner(
    config: Config, vocabulary: int, language_model: Path | None = None, backbone: Path | None = None
) -> Captioner:
    """A new captioner with the weights of its parts. While all gates are 0, the decoder computes the original language model."""
    if backbone is not None and config.backbone is not None:
        config = config.model_copy(update={"backbone": read_arguments(config.backbone, backbone)})
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
