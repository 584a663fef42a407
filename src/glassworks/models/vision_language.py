"""A vision-language model: a text decoder that reads the features of a frozen vision tower among its tokens.

The tower is no part of the model. Its features are stored, or computed by the task. The features of an image pass the connector and are added to the
embeddings of the patch tokens of that image (Molmo). Special tokens have negative ids (`config.packing.SPECIAL`) and a small embedding of their own.
The frames of a clip are images with tokens of their own and another window of the connector. So are the crops of an image, whose windows reach from crop to
crop.

Shapes: B rows, T tokens, N images, frames or crops of the rows, P patches of an image, M tokens of an image or a frame, K tokens of all crops, W patches of
a window of crops, C width of the tower, D width of the decoder, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glassworks.config.packing import FRAME_PATCH, IMAGE_PATCH, OF_FRAMES, OF_IMAGES, OF_TILES, TILE_PATCH
from glassworks.errors import ArtifactError, DataError
from glassworks.models import saving
from glassworks.models.attention import initialise, shrink_residual_outputs
from glassworks.models.connector import STD, Connector
from glassworks.models.losses import LinearLoss, linear_cross_entropy
from glassworks.models.settings.vision_language import VisionLanguage as Config
from glassworks.models.text_decoder import TextDecoder

KIND = "vision_language"


class TowerFeatures(TypedDict):
    """The features of a vision tower, and the identity of its encoder, as saved with a model."""

    encoder: str
    """Its name in params.yaml."""
    width: int
    tokens: int
    """Per image, with those before the patches; 0 for pooled features."""
    settings: dict[str, Any]
    """Of the encoder."""
    weights: str
    """The digest of its weights."""


class VisionLanguageModel(nn.Module):
    """Token ids [B, T] and features [N, P, C] to logits [B, T, V], or to their loss."""

    def __init__(self, config: Config, vocabulary: int, tower: TowerFeatures) -> None:
        """`tower` is saved with the model.

        Raises `ArtifactError` for features of another number of patches than `config.grid`.
        """
        super().__init__()
        self.config, self.vocabulary, self.tower = config, vocabulary, tower
        text, patches = config.text, config.grid**2
        self.class_tokens = tower["tokens"] - patches
        """Tokens before the patches, which are dropped."""
        if self.class_tokens not in (0, 1):
            side = round(tower["tokens"] ** 0.5)
            raise ArtifactError(
                f"model.grid: the tower gives {tower['tokens']:,} tokens an image, and a grid of {config.grid} by {config.grid} patches has "
                f"{patches:,}; set it to {side}"
            )
        self.decoder = TextDecoder(text, vocabulary)
        self.decoder.apply(initialise)
        shrink_residual_outputs(self.decoder, 2 * text.depth)
        if config.similarity:
            liken_keys_to_queries(self.decoder, config.similarity)
        self.connector = Connector(config.connector, config.grid, tower["width"], text.width, text.inner_width)
        self.special = nn.Embedding(len(OF_IMAGES), text.width)
        nn.init.normal_(self.special.weight, std=STD)
        self.special_frames: nn.Embedding | None = None
        self.special_tiles: nn.Embedding | None = None
        if config.frame_tokens is not None:
            self.special_frames = nn.Embedding(len(OF_FRAMES), text.width)
            nn.init.normal_(self.special_frames.weight, std=STD)
        if config.connector.tile_window is not None:
            self.special_tiles = nn.Embedding(len(OF_TILES), text.width)
            nn.init.normal_(self.special_tiles.weight, std=STD)

    def forward(
        self,
        ids: Tensor,
        documents: Tensor,
        branches: Tensor | None = None,
        positions: Tensor | None = None,
        features: Tensor | None = None,
        places: Tensor | None = None,
        frames: Tensor | None = None,
        frame_places: Tensor | None = None,
        targets: Tensor | None = None,
        token_weights: Tensor | None = None,
        z_loss: float = 0.0,
        tiles: Tensor | None = None,
        tile_windows: Tensor | None = None,
        tile_places: Tensor | None = None,
        ends: Sequence[int] = (),
    ) -> Tensor | LinearLoss:
        """With `targets` [B, T], their loss (`linear_cross_entropy`), without the logits of other positions."""
        pictures = (features, places, frames, frame_places, tiles, tile_windows, tile_places, ends)
        hidden = self.hidden(ids, documents, branches, positions, *pictures)
        if targets is None:
            return self.decoder.logits(hidden)
        return linear_cross_entropy(
            hidden, self.decoder.head_weight, targets, token_weights=token_weights, z_loss=z_loss
        )

    def hidden(
        self,
        ids: Tensor,
        documents: Tensor,
        branches: Tensor | None = None,
        positions: Tensor | None = None,
        features: Tensor | None = None,
        places: Tensor | None = None,
        frames: Tensor | None = None,
        frame_places: Tensor | None = None,
        tiles: Tensor | None = None,
        tile_windows: Tensor | None = None,
        tile_places: Tensor | None = None,
        ends: Sequence[int] = (),
    ) -> Tensor:
        """Normalised features [B, T, D] of packed rows. The other arguments are those of `inputs` and of `TextDecoder.hidden`."""
        return self.decoder.hidden(
            ids,
            documents=documents,
            branches=branches,
            positions=positions,
            **self.inputs(ids, features, places, frames, frame_places, tiles, tile_windows, tile_places, ends),
        )

    def inputs(
        self,
        ids: Tensor,
        features: Tensor | None = None,
        places: Tensor | None = None,
        frames: Tensor | None = None,
        frame_places: Tensor | None = None,
        tiles: Tensor | None = None,
        tile_windows: Tensor | None = None,
        tile_places: Tensor | None = None,
        ends: Sequence[int] = (),
    ) -> dict[str, Any]:
        """The arguments `inputs` and `mutual` of `TextDecoder.hidden`.

        `features` [N, P, C] are those of all images, row after row. `places` [N * M] are the positions of the patch tokens in the flattened `ids`; by
        default they are looked up. `frames` and `frame_places` are those of the frames of clips. `tiles` [N, P, C] and `tile_places` [K] are those of the
        crops of images; `tile_windows`, int64 [K, W], has the patches of each token among those of all crops, -1 for none. The image tokens between two
        tokens among `ends` attend to each other in both directions, those of all crops and frames included: an image never shows a text before it to an
        earlier image. Raises `DataError` where the numbers do not fit.
        """
        special = ids < 0
        weight = self.special.weight
        if self.special_frames is not None:
            weight = torch.cat([weight, self.special_frames.weight])
        elif self.special_tiles is not None:
            weight = torch.cat([weight, weight.new_zeros(len(OF_FRAMES), weight.shape[1])])
        if self.special_tiles is not None:
            weight = torch.cat([weight, self.special_tiles.weight])
        x = torch.where(
            special[..., None],
            F.embedding((-1 - ids).clamp(min=0), weight),
            self.decoder.embed(ids.clamp(min=0)),
        )
        x = self._add(x, ids, features, places, IMAGE_PATCH)
        x = self._add(x, ids, frames, frame_places, FRAME_PATCH)
        x = self._add_tiles(x, ids, tiles, tile_windows, tile_places)
        seen = any(given is not None and len(given) for given in (features, frames, tiles))
        mutual = None
        if self.config.image_attention == "bidirectional" and seen:
            mutual = special.long()
            if len(ends):
                mutual = mutual * (1 + torch.isin(ids, torch.tensor(list(ends), device=ids.device)).cumsum(1))
        return {"inputs": x, "mutual": mutual}

    def _add(self, x: Tensor, ids: Tensor, features: Tensor | None, places: Tensor | None, patch: int) -> Tensor:
        """Input vectors [B, T, D] with the features of images or frames [N, P, C] at the places of their patch tokens."""
        video = patch == FRAME_PATCH
        if places is None:
            places = (ids.flatten() == patch).nonzero()[:, 0]
        count, tokens = (
            0 if features is None else len(features),
            self.connector.frame_tokens if video else self.connector.tokens,
        )
        if len(places) != count * (tokens or 0):
            kind = "frames" if video else "images"
            raise DataError(
                f"{len(places):,} patch tokens in the rows, but {count:,} {kind} of {tokens or 0} tokens each; pack the data again"
            )
        if features is None:
            return x
        added = self.connector(features[:, self.class_tokens :], video)
        return x.flatten(0, 1).index_add(0, places, added.flatten(0, 1).to(x.dtype)).view_as(x)

    def _add_tiles(
        self, x: Tensor, ids: Tensor, tiles: Tensor | None, windows: Tensor | None, places: Tensor | None
    ) -> Tensor:
        """Input vectors [B, T, D] with the features of crops [N, P, C] at the places of their patch tokens."""
        if places is None:
            places = (ids.flatten() == TILE_PATCH).nonzero()[:, 0]
        tokens = 0 if tiles is None or windows is None else len(windows)
        if len(places) != tokens:
            raise DataError(
                f"{len(places):,} patch tokens of crops in the rows, but crops of {tokens:,}; pack the data again"
            )
        if tiles is None or windows is None:
            return x
        added = self.connector.tiles(tiles[:, self.class_tokens :], windows)
        return x.flatten(0, 1).index_add(0, places, added.to(x.dtype)).view_as(x)

    def name(self, features: Tensor, names: Tensor, weight: float) -> LinearLoss:
        """The loss of `names`, int64 [N, M, K]: K target tokens for each image token of `features` [N, P, C], -100 for none.

        The logits are those of the connector's tokens without positions, normalised, under the output layer. The name of an object then resembles its image tokens, and
        the decoder finds by a word in the question the place that it speaks of. An image token weighs `weight`.
        """
        tokens = self.connector.content(features[:, self.class_tokens :])
        hidden = F.rms_norm(tokens, tokens.shape[-1:])[:, :, None].expand(*names.shape, -1)
        weights = hidden.new_full(names.shape, weight / names.shape[-1], dtype=torch.float32)
        return linear_cross_entropy(hidden, self.decoder.head_weight, names, token_weights=weights)

    def blocks(self) -> Iterator[nn.Module]:
        """The transformer blocks, which hold nearly all activations (for gradient checkpointing)."""
        yield from self.decoder.blocks

    def shards(self) -> Iterator[nn.Module]:
        """Modules used only through `forward`, so FSDP2 can gather their weights when they run."""
        yield from self.decoder.blocks

    def save(self, directory: Path) -> None:
        """Write config.json and model.safetensors."""
        config = {"model": KIND, "vocabulary": self.vocabulary, "tower": self.tower}
        saving.save(self, directory, config | self.config.model_dump(mode="json"))

    @classmethod
    def load(cls, directory: Path) -> "VisionLanguageModel":
        """The model written by `save`. Raises `ArtifactError` listing missing, extra and misshapen tensors."""
        config, vocabulary = saving.read_settings(directory, KIND, Config)
        tower = saving.read_config(directory, "a saved vision-language model")["tower"]
        tensors = saving.read_tensors(directory / saving.WEIGHTS)
        with saving.without_weights():
            model = cls(config, vocabulary, tower)
        saving.assign(model, tensors, directory / saving.WEIGHTS, for_decoding=True)
        return model


def liken_keys_to_queries(decoder: TextDecoder, share: float) -> None:
    """Replace the key projection K of every block by share Q + sqrt(1 - share^2) K, which has the same variance."""
    with torch.no_grad():
        for block in decoder.blocks:
            query, key, _ = block.attention.qkv.weight.chunk(3)
            key.mul_((1 - share**2) ** 0.5).add_(query, alpha=share)
