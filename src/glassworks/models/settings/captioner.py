"""Shape of an image captioner, and the trained parts it starts from."""

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
    """Instead: an image encoder of timm."""
    decoder: TextDecoder | None = None
    """A text decoder trained from scratch."""
    language_model: str | None = None
    """Instead: a text decoder to begin with, an experiment of task language_modelling or an entry under `weights` in params.yaml. Its new gated
    cross-attention is closed at first, so that it begins as the language model it was."""
    lock_step: bool = False
    """Whether decoder block i attends to layer i of the encoder (as many layers as blocks) and not all of them to the same tokens."""
    max_tokens: Annotated[int, Field(ge=4)] | None = None
    """Longest caption in tokens, BOS and EOS included; null is the decoder's limit."""

    @model_validator(mode="after")
    def _one_of_each(self) -> "Captioner":
        for one, other in (("encoder", "backbone"), ("decoder", "language_model")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"give either {one} or {other}, not both")
        if self.lock_step and self.backbone is None:
            raise ValueError("lock_step needs a backbone with one of its layers for each decoder block")
        return self

    @property
    def vision(self) -> VisionTransformer | Backbone:
        """What looks at the image."""
        return self.backbone or self.encoder or VisionTransformer()

    @property
    def text(self) -> TextDecoder:
        """Shapes of the decoder; those of `language_model` stand in its own config."""
        return self.decoder or TextDecoder()

    @property
    def caption_tokens(self) -> int:
        """Longest caption in tokens."""
        return min(self.max_tokens or self.text.max_tokens, self.text.max_tokens)
