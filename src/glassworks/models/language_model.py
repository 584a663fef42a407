"""A language model: a text decoder without a memory."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from glassworks.models import saving
from glassworks.models.attention import initialise, shrink_residual_outputs
from glassworks.models.settings.text_decoder import TextDecoder as Config
from glassworks.models.text_decoder import TextDecoder

KIND = "language_model"


class LanguageModel(nn.Module):
    """Token ids [B, T] to logits [B, T, V]."""

    def __init__(self, config: Config, vocabulary: int) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.decoder = TextDecoder(config, vocabulary)
        self.apply(initialise)
        shrink_residual_outputs(self.decoder, 2 * config.depth)

    def forward(
        self,
        ids: Tensor,
        documents: Tensor | None = None,
        branches: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        return self.decoder(ids, documents=documents, branches=branches, positions=positions)

    def blocks(self) -> Iterator[nn.Module]:
        """The transformer blocks, which hold nearly all activations (for gradient checkpointing)."""
        yield from self.decoder.blocks

    def shards(self) -> Iterator[nn.Module]:
        """Modules used only through `forward`, so FSDP2 can gather their weights when they run."""
        yield from self.decoder.blocks

    def save(self, directory: Path) -> None:
        """Write config.json and model.safetensors."""
        config = {"model": KIND, "vocabulary": self.vocabulary, **self.config.model_dump(mode="json")}
        saving.save(self, directory, config)

    @classmethod
    def load(cls, directory: Path) -> "LanguageModel":
        """The model written by `save`. Raises `ArtifactError` listing missing, extra and misshapen tensors."""
        config, vocabulary = saving.read_settings(directory, KIND, Config)
        tensors = saving.read_tensors(directory / saving.WEIGHTS)
        with saving.without_weights():
            model = cls(config, vocabulary)
        saving.assign(model, tensors, directory / saving.WEIGHTS, for_decoding=True)
        return model
