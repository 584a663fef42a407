"""Image encoders of timm, frozen."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from glassworks.artifacts.model_files import read_hub_config
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.images import image_of, normalise, resize
from glassworks.encoders.timm_image.settings import TimmImage
from glassworks.models.backbone import Backbone
from glassworks.models.pretrained.backbones import load_backbone, read_arguments
from glassworks.models.settings.backbone import Backbone as Config


class TimmImageEncoder:
    """Images to tokens of one or several feature maps."""

    modality = "image"

    def __init__(self, network: Backbone) -> None:
        self.network = network.freeze()
        self.image_size = network.config.image_size
        self.tokens, self.width = network.places, sum(network.widths)

    def read(self, sample: Sample) -> dict[str, Tensor]:
        """uint8 image [3, I, I]."""
        return {"image": image_of(sample, self.image_size)}

    def read_frame(self, frame: Tensor) -> dict[str, Tensor]:
        """uint8 image [3, H, W], such as a frame of a clip, to [3, I, I]."""
        return {"image": resize(frame, self.image_size)}

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, I, I] to features [B, N, C]; no token is masked."""
        values = torch.cat(self.network(normalise(batch["image"])), dim=-1)
        return values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)

    def to(self, device: torch.device) -> "TimmImageEncoder":
        """Move the network to a device."""
        self.network.to(device)
        return self


def load(settings: TimmImage, directory: Path) -> TimmImageEncoder:
    """The encoder with the weights in a directory in timm's layout on the hub."""
    name = str(read_hub_config(directory).get("architecture"))
    layers = (settings.layer,) if isinstance(settings.layer, int) else settings.layer
    config = Config(name=name, image_size=settings.image_size, layers=layers)
    network = Backbone(read_arguments(config, directory))
    load_backbone(network, directory)
    return TimmImageEncoder(network)
