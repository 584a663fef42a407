"""A text decoder that reads the fused features of several frozen towers, such as one for images and one for speech.

The towers are no part of the model: their features are stored. Tokens of modalities stand before BOS, or gated layers read them (`models.fusion`).
Shapes: B samples, T tokens of a text, P tokens before it, L = P + T at most, D width of the decoder, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.config.packing import IMAGE_PATCH
from glassworks.errors import DataError
from glassworks.models import adapters, saving
from glassworks.models.attention import initialise, shrink_residual_outputs
from glassworks.models.fusion import Fusion, GatedLayer, Modality, Tokens
from glassworks.models.losses import IGNORED, LinearLoss
from glassworks.models.settings.fusion import FusedDecoder as Config
from glassworks.models.settings.fusion import Input
from glassworks.models.text_decoder import TextDecoder

KIND = "fused_decoder"
PLACE = IMAGE_PATCH
"""The id of a token of a modality among the tokens of a text."""


class TowerFeatures(TypedDict):
    """The features of a modality, how they become tokens, and the identity of their encoder, as saved with a model."""

    encoder: str
    """Its name in params.yaml."""
    width: int
    input: dict[str, int]
    """The settings of `Input`."""
    settings: dict[str, Any]
    """Of the encoder."""
    weights: str
    """The digest of its weights."""


class Rows(NamedTuple):
    """Texts with the places of the tokens of modalities before them."""

    ids: Tensor
    """[B, L] token ids, PLACE at the tokens of modalities."""
    targets: Tensor
    """[B, L], `IGNORED` at those places and at padding."""
    documents: Tensor
    """[B, L] 0, and -1 at padding."""


def place(mask: Tensor, ids: Tensor, targets: Tensor, pad: int) -> Rows:
    """The texts `ids` and `targets` [B, T] behind the real tokens of `mask` [B, P]; padding has the target `IGNORED` and comes last.

    A text without modalities keeps its positions.
    """
    count, length = mask.sum(1), ids.shape[1]
    total = int(count.max()) + length
    columns = torch.arange(total, device=ids.device)
    where = count[:, None] + torch.arange(length, device=ids.device)
    rows = ids.new_full((len(ids), total), pad).scatter_(1, where, ids)
    rows = rows.masked_fill(columns < count[:, None], PLACE)
    moved = targets.new_full((len(ids), total), IGNORED).scatter_(1, where, targets)
    ends = count + (targets != IGNORED).sum(1)
    return Rows(rows, moved, torch.where(columns < ends[:, None], 0, -1))


class FusedDecoder(nn.Module):
    """Features of several modalities and token ids to logits [B, L, V], or to their loss."""

    def __init__(
        self,
        config: Config,
        vocabulary: int,
        towers: Mapping[str, TowerFeatures],
        decoder: TextDecoder | None = None,
    ) -> None:
        """`towers` describes the features of each modality, and is saved with the model. Their tokens are in the order of their names.

        The `decoder` is trained or filled later; None draws a new one.
        """
        super().__init__()
        self.config, self.vocabulary, self.towers = config, vocabulary, dict(sorted(towers.items()))
        text, fusion = config.text, config.fusion
        if decoder is None:
            decoder = TextDecoder(text, vocabulary)
            decoder.apply(initialise)
            shrink_residual_outputs(decoder, 2 * text.depth)
        self.decoder = decoder
        inputs = {name: (tower["width"], Input(**tower["input"])) for name, tower in self.towers.items()}
        self.fusion = Fusion(fusion, inputs, text.width, text.inner_width)
        self.fusion.apply(initialise)
        if fusion.kind == "gated":
            layers = [GatedLayer(fusion, text.width, text.inner_width) for _ in range(0, text.depth, fusion.every)]
            decoder.attach_gated([layer.apply(initialise) for layer in layers], fusion.every)

    def replace_decoder(self, decoder: TextDecoder) -> None:
        """Take a decoder with weights in place of the one on the meta device; the gated layers stay."""
        decoder.attach_gated(list(self.decoder.gated), self.config.fusion.every)
        self.decoder = decoder

    def forward(
        self,
        rows: Rows,
        features: Mapping[str, Modality],
        token_weights: Tensor | None = None,
        z_loss: float = 0.0,
    ) -> LinearLoss:
        """The loss of the targets of `rows` (`linear_cross_entropy`), without the logits of other positions. `token_weights` are [B, L].

        The loss of a recursive decoder in training is the mean over its supervision steps.
        """
        supervised = self.training and self.config.text.recursion is not None
        return self.decoder.loss(
            self.hidden(rows, features, every_step=supervised), rows.targets, token_weights, z_loss
        )

    def hidden(self, rows: Rows, features: Mapping[str, Modality], every_step: bool = False) -> Tensor:
        """Normalised features [B, L, D]; with `every_step`, those of all supervision steps [N_sup, B, L, D].

        Raises `DataError` where the places of `rows` do not fit the features.
        """
        tokens = self.fusion(features)
        return self.decoder.hidden(
            rows.ids,
            self.memory(tokens),
            documents=rows.documents,
            every_step=every_step,
            **self.inputs(rows.ids, tokens),
        )

    def read_off(
        self,
        modality: str,
        features: Modality,
        texts: Sequence[Sequence[int]],
        blank: int,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The summed CTC loss of the texts of the samples, token ids without BOS and EOS, read off the tokens of a modality by the output layer.

        `blank` is an id that is in no text, and `weights` [B] are factors of the losses. Samples without the modality, and those with fewer tokens than
        their text needs, have no loss.
        """
        tokens = self.fusion.projections[modality](features)
        lengths = tokens.mask.sum(1).tolist()
        heard = [row for row, length in enumerate(lengths) if length and texts[row]]
        if not heard:
            return tokens.values.sum() * 0
        rows = torch.tensor(heard, device=tokens.values.device)
        logits = self.decoder.logits(self.decoder.norm(tokens.values.index_select(0, rows)))
        # On a GPU, the backward pass of the loss is not deterministic.
        scores = logits.float().log_softmax(-1).transpose(0, 1).cpu()
        spoken = [torch.tensor(texts[row]) for row in heard]
        sizes = torch.tensor([lengths[row] for row in heard]), torch.tensor([len(text) for text in spoken])
        losses = F.ctc_loss(scores, torch.cat(spoken), *sizes, blank=blank, reduction="none", zero_infinity=True)
        losses = losses.to(rows.device)
        return (losses if weights is None else losses * weights[rows]).sum()

    def memory(self, tokens: Tokens) -> list[tuple[Tensor, ...]] | None:
        """Keys, values and mask for each gated layer; None without any."""
        return [layer.memory(tokens) for layer in self.decoder.gated] or None

    def inputs(self, ids: Tensor, tokens: Tokens) -> dict[str, Tensor]:
        """The argument `inputs` of `TextDecoder.hidden`: the embeddings of `ids` [B, L] with the real tokens in their places; nothing for gated layers."""
        if self.decoder.gated:
            return {}
        places = (ids.flatten() == PLACE).nonzero()[:, 0]
        real = tokens.mask.flatten().nonzero()[:, 0]
        if len(places) != len(real):
            raise DataError(f"{len(places):,} places in the rows, but {len(real):,} tokens of modalities")
        x = self.decoder.embed(ids.clamp(min=0)).masked_fill((ids == PLACE)[..., None], 0.0)
        values = tokens.values.flatten(0, 1).index_select(0, real).to(x.dtype)
        return {"inputs": x.flatten(0, 1).index_add(0, places, values).view_as(x)}

    def blocks(self) -> Iterator[nn.Module]:
        """The transformer blocks, which hold nearly all activations (for gradient checkpointing)."""
        yield from self.decoder.blocks

    def shards(self) -> Iterator[nn.Module]:
        """Modules used only through `forward`, so FSDP2 can gather their weights when they run."""
        yield from self.decoder.blocks

    def save(self, directory: Path, base: Mapping[str, str] | None = None) -> None:
        """Write config.json and model.safetensors. With `base`, the record of the decoder's base, the decoder is written as its adapter in peft's layout."""
        tensors = self.state_dict()
        if base is not None:
            tensors = {name: tensor for name, tensor in tensors.items() if not is_of_base(name)}
            adapters.save_adapter(self, directory, base)
        config = {"model": KIND, "vocabulary": self.vocabulary, "towers": self.towers}
        saving.save_published(tensors, directory, config | self.config.model_dump(mode="json"))

    @classmethod
    def load(cls, directory: Path) -> "FusedDecoder":
        """The model written by `save` without a base. Raises `ArtifactError` listing missing, extra and misshapen tensors."""
        config, vocabulary = saving.read_settings(directory, KIND, Config)
        towers = saving.read_config(directory, "a saved fused decoder")["towers"]
        tensors = saving.read_tensors(directory / saving.WEIGHTS)
        with saving.without_weights():
            model = cls(config, vocabulary, towers)
        saving.assign(model, tensors, directory / saving.WEIGHTS, for_decoding=True)
        return model


def is_of_base(name: str) -> bool:
    """Whether a tensor belongs to the decoder without its gated layers."""
    return name.startswith("decoder.") and not name.startswith("decoder.gated.")
