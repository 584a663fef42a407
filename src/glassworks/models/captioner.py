"""An image captioner: ViT encoder, GPT-style decoder. Saved as config.json + model.safetensors."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glassworks.artifacts.digests import write_json
from glassworks.config.model import Captioner as Config
from glassworks.errors import ArtifactError
from glassworks.models.attention import initialise, shrink_residual_outputs
from glassworks.models.text_decoder import Memory, TextDecoder
from glassworks.models.vision_transformer import VisionTransformer


class Captioner(nn.Module):
    """Images [B, 3, I, I] in [-1, 1] and token ids [B, T] to logits [B, T, V]."""

    def __init__(self, config: Config, vocabulary: int) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.encoder = VisionTransformer(config.encoder)
        self.decoder = TextDecoder(config.decoder, vocabulary, config.encoder.width)
        self.apply(initialise)
        nn.init.normal_(self.encoder.positions, std=0.02)
        shrink_residual_outputs(self.encoder, 2 * config.encoder.depth)
        shrink_residual_outputs(self.decoder, 3 * config.decoder.depth)

    def remember(self, images: Tensor) -> Memory:
        """The image keys and values of every decoder block; all that decoding needs of the images."""
        return self.decoder.remember(self.encoder(images))

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        return self.decoder(ids, self.remember(images))

    def blocks(self) -> Iterator[nn.Module]:
        """The transformer blocks, in which nearly all activations arise (gradient checkpointing)."""
        yield from self.encoder.blocks
        yield from self.decoder.blocks

    def shards(self) -> Iterator[nn.Module]:
        """Modules of which nothing but `forward` is called, so that FSDP2 can gather their weights when they run."""
        yield from self.encoder.blocks

    def save(self, directory: Path) -> None:
        """Write config.json and model.safetensors."""
        directory.mkdir(parents=True, exist_ok=True)
        write_json(
            directory / "config.json",
            {"model": "captioner", "vocabulary": self.vocabulary, **self.config.model_dump(mode="json")},
        )
        save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()}, directory / "model.safetensors"
        )

    @classmethod
    def load(cls, directory: Path) -> "Captioner":
        """The model that `save` wrote; an `ArtifactError` lists missing, extra and misshapen tensors."""
        try:
            saved = json.loads((directory / "config.json").read_text())
            tensors = load_file(directory / "model.safetensors")
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{directory}: not a saved captioner ({error})") from None
        config = Config.model_validate({name: saved[name] for name in Config.model_fields})
        with torch.device("meta"):
            model = cls(config, saved["vocabulary"])
        expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
        faults = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
        faults += [f"extra {name}" for name in sorted(tensors.keys() - expected.keys())]
        common = sorted(expected.keys() & tensors.keys())
        faults += [
            f"{name} is {list(tensors[name].shape)}, not {list(expected[name])}"
            for name in common
            if tensors[name].shape != expected[name]
        ]
        if faults:
            raise ArtifactError(f"{directory / 'model.safetensors'}: {'; '.join(faults)}")
        model.load_state_dict(tensors, assign=True)
        return model
