"""The image tower of CLIP (Radford et al., 2021), frozen."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.images import image_of, normalise, resize
from glassworks.encoders.clip_image.settings import ClipImage
from glassworks.encoders.protocol import check_layer
from glassworks.models.pretrained.vision import load_vision_transformer
from glassworks.models.vision_transformer import VisionTransformer


class ClipImageEncoder:
    """Images to the tokens of one or several blocks."""

    modality = "image"

    def __init__(self, network: VisionTransformer, layer: int | tuple[int, ...]) -> None:
        self.network, self.layer = network.eval().requires_grad_(False), layer
        self.layers = (layer,) if isinstance(layer, int) else layer
        self.image_size = network.config.image_size
        self.tokens, self.width = len(network.positions), network.config.width * len(self.layers)

    def read(self, sample: Sample) -> dict[str, Tensor]:
        """uint8 image [3, I, I]."""
        return {"image": image_of(sample, self.image_size)}

    def read_frame(self, frame: Tensor) -> dict[str, Tensor]:
        """uint8 image [3, H, W], such as a frame of a clip, to [3, I, I]."""
        return {"image": resize(frame, self.image_size)}

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, I, I] to features [B, N, C]; no token is masked."""
        images = normalise(batch["image"])
        found = [self.network(images)] if self.layer == -1 else self.network.layers(images, self.layers)
        values = torch.cat(found, dim=-1)
        return values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)

    def to(self, device: torch.device) -> "ClipImageEncoder":
        """Move the network to a device."""
        self.network.to(device)
        return self


def load(settings: ClipImage, directory: Path) -> ClipImageEncoder:
    """The encoder with the weights in a directory in transformers' layout."""
    network = load_vision_transformer(directory)
    encoder = ClipImageEncoder(network, settings.layer)
    for layer in encoder.layers:
        check_layer(layer, len(network.blocks))
    return encoder
