"""A language model: a text decoder without a memory, plain or recursive."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from glassworks.artifacts.digests import write_json
from glassworks.models import adapters, saving
from glassworks.models.attention import initialise, shrink_residual_outputs
from glassworks.models.losses import LinearLoss
from glassworks.models.quantisation import Quantisation
from glassworks.models.settings.text_decoder import TextDecoder as Config
from glassworks.models.text_decoder import TextDecoder

KIND = "language_model"


class LanguageModel(nn.Module):
    """Token ids [B, T] to logits [B, T, V], or to their loss."""

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
        targets: Tensor | None = None,
        token_weights: Tensor | None = None,
        z_loss: float = 0.0,
        noise: Tensor | None = None,
    ) -> Tensor | LinearLoss:
        """With `targets` [B, T], their loss (`linear_cross_entropy`), without the logits of all positions. `noise` [B, T, C] is added to the embeddings.

        The loss of a recursive decoder in training is the mean over its supervision steps. Otherwise logits and loss are those after the last one.
        """
        supervised = self.config.recursion is not None and self.training and targets is not None
        hidden = self.decoder.hidden(
            ids, documents=documents, branches=branches, positions=positions, noise=noise, every_step=supervised
        )
        if targets is None:
            return self.decoder.logits(hidden)
        return self.decoder.loss(hidden, targets, token_weights, z_loss)

    def hidden(
        self,
        ids: Tensor,
        documents: Tensor | None = None,
        branches: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Features [B, T, C] of ids [B, T]. Their product with `decoder.head_weight` [V, C] gives the logits of `forward`."""
        return self.decoder.hidden(ids, documents=documents, branches=branches, positions=positions)

    def blocks(self) -> Iterator[nn.Module]:
        """The transformer blocks, which hold nearly all activations (for gradient checkpointing)."""
        yield from self.decoder.blocks

    def shards(self) -> Iterator[nn.Module]:
        """Modules used only through `forward`, so FSDP2 can gather their weights when they run."""
        yield from self.decoder.blocks

    def save(self, directory: Path) -> None:
        """Write config.json and model.safetensors."""
        saving.save(self, directory, self._config())

    def save_adapter(
        self, directory: Path, base: Path, dtype: str = "fp32", quantisation: Quantisation | None = None
    ) -> None:
        """Write config.json and, in peft's layout, the adapter of the model in the artefact `base`, without the weights of the base.

        `dtype` is the precision in which training held the base, and `quantisation` that of its linear layers.
        """
        adapters.save_adapter(self, directory, adapters.base_record(base, dtype, quantisation))
        write_json(directory / saving.CONFIG, self._config())

    def _config(self) -> dict[str, object]:
        return {"model": KIND, "vocabulary": self.vocabulary, **self.config.model_dump(mode="json")}

    @classmethod
    def load(cls, directory: Path) -> "LanguageModel":
        """The model written by `save`. Raises `ArtifactError` listing missing, extra and misshapen tensors."""
        config, vocabulary = saving.read_settings(directory, KIND, Config)
        tensors = saving.read_tensors(directory / saving.WEIGHTS)
        with saving.without_weights():
            model = cls(config, vocabulary)
        saving.assign(model, tensors, directory / saving.WEIGHTS, for_decoding=True)
        return model
