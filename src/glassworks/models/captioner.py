"""An image captioner: an encoder (our ViT, or any backbone of timm) and a text decoder that attends to its tokens."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from glassworks.errors import ConfigError
from glassworks.models import saving
from glassworks.models.attention import initialise, shrink_residual_outputs
from glassworks.models.backbone import Backbone
from glassworks.models.losses import LinearLoss, linear_cross_entropy
from glassworks.models.settings.backbone import Backbone as BackboneConfig
from glassworks.models.settings.captioner import Captioner as Config
from glassworks.models.text_decoder import Memory, TextDecoder
from glassworks.models.vision_transformer import VisionTransformer

KIND = "captioner"


class Captioner(nn.Module):
    """Images [B, 3, I, I] in [-1, 1] and token ids [B, T] to logits [B, T, V], or to their loss.

    The layers of a backbone are normalised, because they precede its final norm. They get positions, which a convolutional network hardly encodes.
    """

    def __init__(self, config: Config, vocabulary: int) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        text = config.text
        if isinstance(config.vision, BackboneConfig):
            self.encoder: Backbone | VisionTransformer = Backbone(config.vision)
        else:
            self.encoder = VisionTransformer(config.vision)
            self.encoder.apply(initialise)
            nn.init.normal_(self.encoder.positions, std=0.02)
            shrink_residual_outputs(self.encoder, 2 * config.vision.depth)
        if config.lock_step and len(self.encoder.widths) != text.depth:
            raise ConfigError(
                f"model.backbone.layers: lock_step needs one layer for each of the {text.depth} decoder blocks, "
                f"not {len(self.encoder.widths)}"
            )
        if isinstance(self.encoder, Backbone):
            self.memory_norms = nn.ModuleList(nn.LayerNorm(width) for width in self.encoder.widths)
            self.memory_positions = nn.ParameterList(
                nn.init.normal_(torch.empty(self.encoder.places, width), std=0.02) for width in self.encoder.widths
            )
        widths = self.encoder.widths if config.lock_step else [sum(self.encoder.widths)] * text.depth
        self.decoder = TextDecoder(text, vocabulary, widths)
        self.decoder.apply(initialise)
        shrink_residual_outputs(self.decoder, 3 * text.depth)

    def features(self, images: Tensor) -> list[Tensor]:
        """Image tokens [B, N, C]: one tensor for all decoder blocks, or one per block with `lock_step`."""
        if isinstance(self.encoder, VisionTransformer):
            return [self.encoder(images)]
        layers = [
            norm(tokens) + positions
            for tokens, norm, positions in zip(
                self.encoder(images), self.memory_norms, self.memory_positions, strict=True
            )
        ]
        return layers if self.config.lock_step else [torch.cat(layers, dim=-1)]

    def encode_memory(self, images: Tensor) -> Memory:
        """The image keys and values of every decoder block. Decoding needs nothing else of the images."""
        return self.decoder.encode_memory(self.features(images))

    def forward(
        self, images: Tensor, ids: Tensor, targets: Tensor | None = None, token_weights: Tensor | None = None
    ) -> Tensor | LinearLoss:
        """With `targets` [B, T], their loss (`linear_cross_entropy`), without the logits of all positions."""
        hidden = self.decoder.hidden(ids, self.encode_memory(images))
        if targets is None:
            return self.decoder.logits(hidden)
        return linear_cross_entropy(hidden, self.decoder.head_weight, targets, token_weights=token_weights)

    def close_gates(self) -> None:
        """Set all gates to 0, so the decoder computes its language model without images."""
        for block in self.decoder.blocks:
            nn.init.zeros_(block.gate)

    def blocks(self) -> Iterator[nn.Module]:
        """The transformer blocks, which hold nearly all activations (for gradient checkpointing)."""
        if isinstance(self.encoder, VisionTransformer):
            yield from self.encoder.blocks
        yield from self.decoder.blocks

    def shards(self) -> Iterator[nn.Module]:
        """Modules used only through `forward`, so FSDP2 can gather their weights when they run."""
        if isinstance(self.encoder, VisionTransformer):
            yield from self.encoder.blocks

    def save(self, directory: Path) -> None:
        """Write config.json and model.safetensors."""
        config = {"model": KIND, "vocabulary": self.vocabulary, **self.config.model_dump(mode="json")}
        saving.save(self, directory, config)

    @classmethod
    def load(cls, directory: Path) -> "Captioner":
        """The model written by `save`. Raises `ArtifactError` listing missing, extra and misshapen tensors."""
        config, vocabulary = saving.read_settings(directory, KIND, Config)
        tensors = saving.read_tensors(directory / saving.WEIGHTS)
        # timm models have unsaved buffers
        with saving.without_weights() if config.backbone is None else nullcontext():
            model = cls(config, vocabulary)
        saving.assign(model, tensors, directory / saving.WEIGHTS, for_decoding=True)
        return model
