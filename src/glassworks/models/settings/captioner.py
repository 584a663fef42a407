"""Shape of an image captioner, and its trained parts."""

from typing import Annotated

from pydantic import Field, model_validator

from glassworks.config.base import Settings
from glassworks.models.settings.backbone import Backbone
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.models.settings.vision_transformer import VisionTransformer


class Captioner(Settings):
    """An image encoder and a text decoder: `encoder` or `backbone`, `decoder` or `language_model`."""

    encoder: VisionTransformer | None = None
    """An image encoder trained from scratch."""
    backbone: Backbone | None = None
    """Instead of `encoder`: an image encoder of timm."""
    decoder: TextDecoder | None = None
    """A text decoder trained from scratch."""
    language_model: str | None = None
    """Instead of `decoder`: a trained text decoder, from an experiment of the task language_modelling or an entry under `weights` in params.yaml. The
    gates of its new cross-attention are 0 at first, so it starts as the original language model.
    """
    lock_step: bool = False
    """Whether decoder block i attends only to encoder layer i. Needs as many layers as blocks. If false, all blocks attend to the same tokens."""
    max_tokens: Annotated[int, Field(ge=4)] | None = None
    """Longest caption in tokens, BOS and EOS included; null uses the decoder's limit."""

    @model_validator(mode="after")
    def _one_of_each(self) -> "Captioner":
        for one, other in (("encoder", "backbone"), ("decoder", "language_model")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"give either {one} or {other}, not both")
        if self.decoder is not None and self.decoder.recursion:
            raise ValueError("decoder.recursion: only a language model has one; remove it")
        if self.lock_step and self.backbone is None:
            raise ValueError("lock_step needs a backbone with one of its layers for each decoder block")
        return self

    @property
    def vision(self) -> VisionTransformer | Backbone:
        """The settings of the image encoder."""
        return self.backbone or self.encoder or VisionTransformer()

    @property
    def text(self) -> TextDecoder:
        """The shape of the decoder. The shape of a `language_model` is in its own config."""
        return self.decoder or TextDecoder()

    @property
    def caption_tokens(self) -> int:
        """Longest caption in tokens."""
        return min(self.max_tokens or self.text.max_tokens, self.text.max_tokens)
