"""Vision-language modelling: the next token of a text, given the previous tokens and the images among them.

A row holds packed message trees, conversations and texts. The frozen tower is no part of the model: its features are stored, or computed before each
step. A row without images never runs it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from glassworks.config.clips import Clips
from glassworks.config.continuation import OWN, merge_shapes
from glassworks.config.experiment import data_of
from glassworks.config.packing import FRAME_PATCH, IMAGE_PATCH, IMAGE_START, TILE_PATCH, Packing
from glassworks.config.tiles import Tiles
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.features import FeatureRows, FeatureTable, ListedShards, covering
from glassworks.data.reading.image_rows import ImageRow, ImageRows, answer_weights, by_kind
from glassworks.data.reading.object_names import object_names
from glassworks.data.reading.packing import arrange
from glassworks.data.reading.pictures import KINDS, Kind, pictures_of, windows_of
from glassworks.data.reading.text import TextTokenizer, check_vocabulary
from glassworks.data.reading.tokens import image_chat
from glassworks.encoders.protocol import Reading, stack
from glassworks.encoders.tower import Tower, identity, load_tower, trained_tower
from glassworks.errors import ArtifactError, ConfigError, DataError
from glassworks.models import saving
from glassworks.models.losses import LinearLoss, count_targets
from glassworks.models.pretrained.language_models import load_language_model, read_plain_decoder
from glassworks.models.saving import Matches
from glassworks.models.settings.vision_language import VisionLanguage as Shape
from glassworks.models.vision_language import KIND, TowerFeatures, VisionLanguageModel
from glassworks.tasks.language_modelling.task import Batch as TextBatch
from glassworks.tasks.language_modelling.task import collate, target_weights, token_loss, token_metrics
from glassworks.tasks.vision_language.settings import FEATURES, WEIGHTS, VisionData, VisionLanguage, VisionOptions
from glassworks.training.task import Loss

OF_OTHERS = ("special_frames.weight", "special_tiles.weight")
"""Tensors that a model lacks which reads no clips, or no tiles."""
MAY_DIFFER = ("clips", "tiles", "batch_size")
"""Settings of an encoder that may change when training continues."""


@dataclass(frozen=True)
class Example:
    """One row."""

    row: ImageRow
    readings: Mapping[Kind, list[Reading]]
    """The decoded pictures of a tower in the training step, by their kind."""
    names: Sequence[np.ndarray] = ()
    """The tokens of the names in each image (`object_names`); empty without a loss for them."""


@dataclass(frozen=True)
class Batch(TextBatch):
    """A micro-batch of B rows with T inputs each, N images in all, and N frames of clips, and N crops of images with K tokens in all."""

    places: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """[N * M] positions of the patch tokens of images in the flattened inputs."""
    features: Tensor | None = None
    """[N, P, C] stored features of the images in the order of the rows; None for a tower in the training step."""
    readings: Reading = field(default_factory=dict)
    """The images of a tower in the training step; empty without any."""
    frame_places: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """[N * M] positions of the patch tokens of frames in the flattened inputs."""
    frames: Tensor | None = None
    """[N, P, C] stored features of the frames in the order of the rows; None for a tower in the training step, and for a model that reads no clips."""
    frame_readings: Reading = field(default_factory=dict)
    """The frames of a tower in the training step; empty without any."""
    tile_places: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """[K] positions of the patch tokens of crops in the flattened inputs."""
    tile_windows: Tensor | None = None
    """int64 [K, W] the patches of each of these tokens among those of all crops, -1 for none; None without crops."""
    tiles: Tensor | None = None
    """[N, P, C] stored features of the crops in the order of the rows; None for a tower in the training step, and without crops."""
    tile_readings: Reading = field(default_factory=dict)
    """The crops of a tower in the training step; empty without any."""
    names: Tensor | None = None
    """int64 [N, M, K] target tokens of each image token; None without a loss for them."""


class VisionLanguageTask:
    """Vision-language modelling as a `Task[VisionLanguageModel, Example, Batch, ImageRow, VisionOptions]`."""

    passes = 1

    def __init__(
        self,
        shape: Shape,
        tokenizer: TextTokenizer,
        packing: Packing,
        tower: TowerFeatures,
        stored: Sequence[FeatureTable] | None = None,
        in_loop: Tower | None = None,
        z_loss: float = 0.0,
        vocabulary: int | None = None,
        begin: Path | None = None,
        naming: float = 0.0,
    ) -> None:
        """`tower` describes the features, which are `stored` or computed `in_loop`. `begin` is the artefact of a model to continue, or of a language
        model, with its `vocabulary`. `naming` is the weight of the loss of the names of objects.
        """
        self.shape, self.tokenizer, self.packing, self.tower = shape, tokenizer, packing, tower
        self.stored, self.in_loop, self.z_loss, self.begin = stored, in_loop, z_loss, begin
        self.blank: Tensor | None = None
        """Features [tokens, C] of a grey image; None but for an evaluation."""
        self.naming, self.vocabulary = naming, vocabulary or tokenizer.size
        self.metrics = ("loss", "accuracy", *(["z_loss"] if z_loss else []))
        """Per target token. The loss is the cross-entropy alone."""

    def build(self) -> VisionLanguageModel:
        """The model with random weights from torch's generator."""
        return VisionLanguageModel(self.shape, self.vocabulary, self.tower)

    def start(self, model: VisionLanguageModel, seed: int) -> Matches | None:
        """Continue another model, or begin with the decoder of a language model."""
        if self.begin is None:
            return None
        if saving.read_config(self.begin, "a model").get("model") == KIND:
            file = self.begin / saving.WEIGHTS
            tensors, own = saving.read_tensors(file), model.state_dict()
            new = [name for name in OF_OTHERS if name in own and name not in tensors]
            matches = saving.fill(model, tensors | {name: own[name] for name in new}, f"model.from: {file}")
            return matches._replace(matched=matches.matched - len(new), new=new)
        tensors = load_language_model(self.begin).decoder.state_dict()
        matches = saving.fill(model.decoder, tensors, self.begin)
        return matches._replace(new=[name for name in model.state_dict() if not name.startswith("decoder.")])

    def save(self, model: VisionLanguageModel, folder: Path) -> None:
        """Write the model and its tokenizer. The frozen tower is no part of them."""
        model.save(folder)
        self.tokenizer.save(folder)

    def arrange(self, dataset: ListedShards, folder: Path | None = None) -> ImageRows:
        """The documents of a split in packed rows, with their images. `folder` holds their tokens and the plan."""
        rows = arrange(dataset, self.tokenizer, self.packing, folder, image_chat(self.tokenizer, self.packing.images))
        return ImageRows(rows, self.features_of(dataset) if rows.tokens.images(self.packing.images).any() else None)

    def features_of(self, dataset: ListedShards) -> FeatureRows | None:
        """The stored features of a split; None for a tower in the training step."""
        if self.stored is None:
            return None
        return FeatureRows(covering(self.stored, dataset, "model.tower"), dataset)

    def example(self, row: ImageRow, part: VisionOptions, seed: int) -> Example:
        """The row with the weights of its answers, and its decoded images and clips for a tower in the training step: nothing is random."""
        weights = answer_weights(row, part.answer_weights == "roots", part.kinds)
        readings: dict[Kind, list[Reading]] = {kind: [] for kind in KINDS}
        if self.in_loop is not None:
            for document in row.pictured:
                for picture in self.in_loop.pictures(row.samples[document]):
                    readings[picture.kind].append(picture.reading)
        named = [self._names(row.samples[document]) for document in self._named(row)]
        return Example(replace(row, weights=weights, loss_weight=part.loss_weight, samples=()), readings, named)

    def collate(self, examples: list[Example]) -> Batch:
        """The rows padded to the length of a row, with their images in one list, the frames of their clips in another, and the crops in a third.

        Raises `DataError` where tokens and images do not fit.
        """
        images = self.packing.images
        cut = images.tiles if images else None
        pictures = [pictures_of(example.row.inputs, cut) for example in examples]
        for example, found in zip(examples, pictures, strict=True):
            self._check_patches(example, found.kinds)
        text = collate([example.row for example in examples], self.packing.row_tokens, self.tokenizer.pad)
        flat = text.inputs.flatten()
        places, frame_places, tile_places = (
            (flat == patch).nonzero()[:, 0] for patch in (IMAGE_PATCH, FRAME_PATCH, TILE_PATCH)
        )
        nothing = torch.zeros(0, self.tower["tokens"], self.tower["width"])
        stored = [one for example in examples for one in example.row.features]
        features = by_kind(stored, [kind for found in pictures for kind in found.kinds] if stored else [])
        readings = {kind: [one for example in examples for one in example.readings[kind]] for kind in KINDS}
        stacked = {kind: stack(some) if some else {} for kind, some in readings.items()}
        tilings = [tiling for found in pictures for tiling in found.tilings]
        named = [one for example in examples for one in example.names]
        return Batch(
            **vars(text),
            places=places,
            features=nothing if features["image"] is None and not stacked["image"] else features["image"],
            readings=stacked["image"],
            frame_places=frame_places,
            frames=nothing
            if features["frame"] is None and not stacked["frame"] and self.shape.frame_tokens
            else features["frame"],
            frame_readings=stacked["frame"],
            tile_places=tile_places,
            tile_windows=torch.from_numpy(windows_of(tilings, cut)) if cut and tilings else None,
            tiles=features["tile"],
            tile_readings=stacked["tile"],
            names=torch.from_numpy(np.stack(named)) if named else None,
        )

    def _check_patches(self, example: Example, kinds: Sequence[Kind]) -> None:
        row = example.row
        wanted = (
            ("images", "image", IMAGE_PATCH, self.shape.image_tokens),
            ("frames", "frame", FRAME_PATCH, self.shape.frame_tokens or 0),
        )
        for name, kind, patch, tokens in wanted:
            count, patches = kinds.count(kind), int((row.inputs == patch).sum())
            if patches != tokens * count:
                raise DataError(
                    f"the row of {row.key!r} has {patches:,} patch tokens for {count} {name} of {tokens}; pack the data again"
                )
        read = [kind for kind in KINDS for _ in example.readings[kind]]
        if read and sorted(read) != sorted(kinds):
            raise DataError(
                f"the row of {row.key!r} has tokens of {len(kinds)} images, crops and frames, and its samples hold {len(read)}; pack the data again"
            )

    def loss(self, model: VisionLanguageModel, batch: Batch, carry: tuple[Tensor, ...] = ()) -> Loss:
        """The loss of all target tokens, and the sum of their weights; with `naming`, image tokens with a name are targets, too."""
        weights, total = target_weights(batch)
        features = self._features(batch.features, batch.readings)
        found = token_loss(self._found(model, batch, features, weights), total, self.z_loss)
        if not self.naming:
            return found
        named, count = features.new_zeros(()), 0.0
        if batch.names is not None:
            named = model.name(features, batch.names, self.naming).total
            count = self.naming * count_targets(batch.names) / batch.names.shape[-1]
        parts = {**(found.parts or {"answers": (found.total.detach(), total)}), "naming": (named.detach(), count)}
        return Loss(found.total + named, total + count, parts)

    def validate(self, model: VisionLanguageModel, batch: Batch) -> dict[str, tuple[float, int]]:
        """Cross-entropy, accuracy and z-loss of the next token, summed over target tokens, without their weights."""
        features = self._features(batch.features, batch.readings)
        return token_metrics(self._found(model, batch, features, None), batch.targets, self.z_loss)

    def _named(self, row: ImageRow) -> list[int]:
        """The documents with an image, whose objects are named. Raises `DataError` for several images in one, since labels belong to one."""
        if not self.naming:
            return []
        documents, counts = np.unique(row.documents[row.inputs == IMAGE_START], return_counts=True)
        if (counts > 1).any():
            sample = row.samples[int(documents[counts > 1][0])]
            raise DataError(
                f"{sample.where}: training.naming names the objects of one image, and this sample has several; set it to 0"
            )
        return [int(document) for document in documents]

    def _names(self, sample: Sample) -> np.ndarray:
        def words(name: str) -> list[int]:
            return self.tokenizer.encode_parts([f" {name}"])[0]

        return object_names(sample, self.shape.grid, self.shape.connector.side, words, self.tokenizer.eos)

    def _features(self, stored: Tensor | None, readings: Reading) -> Tensor:
        """[N, P, C] of the images or frames of a batch."""
        if stored is not None:
            return stored
        assert self.in_loop is not None
        found: Tensor = self.in_loop.features(readings)["features"]
        return found

    def _found(self, model: VisionLanguageModel, batch: Batch, features: Tensor, weights: Tensor | None) -> LinearLoss:
        found: LinearLoss = model(
            batch.inputs,
            *batch.layout,
            features,
            batch.places,
            self._features(batch.frames, batch.frame_readings) if self.shape.frame_tokens else None,
            batch.frame_places,
            targets=batch.targets,
            token_weights=weights,
            z_loss=self.z_loss,
            tiles=None if batch.tile_windows is None else self._features(batch.tiles, batch.tile_readings),
            tile_windows=batch.tile_windows,
            tile_places=batch.tile_places,
            ends=(self.tokenizer.eos,),
        )
        return found


def make(experiment: VisionLanguage, inputs: Mapping[str, Path], fingerprint: dict[str, object]) -> VisionLanguageTask:
    """The task of an experiment, given the directories of its inputs.

    Raises `ArtifactError` for features of another encoder than the experiment names, and `ConfigError` for features without tokens.
    """
    model, tokenizer = experiment.model, TextTokenizer(inputs["tokenizer"])
    shape, vocabulary = model.plain(Shape), tokenizer.size
    begin = inputs.get("start", inputs.get("language_model"))
    if "start" in inputs:
        saved, vocabulary = saving.read_settings(inputs["start"], KIND, Shape)
        own = {key: value for key, value in model.model_dump(mode="json").items() if key not in OWN | {"tower"}}
        merged = merge_shapes(saved.model_dump(mode="json"), own, inputs["start"].name)
        shape = Shape.model_validate(merged)
    elif "language_model" in inputs:
        decoder, vocabulary = read_plain_decoder(inputs["language_model"])
        shape = shape.model_copy(update={"decoder": decoder, "language_model": None})
    if begin is not None:
        check_vocabulary(tokenizer, vocabulary, begin)
    stored, in_loop = None, None
    name = model.tower.encoder
    if model.tower.features == "stored":
        stored = _tables(inputs)
        for table in stored:
            if table.encoder != name:
                raise ArtifactError(
                    f"{table.directory}: features of the encoder {table.encoder!r}, but model.tower.encoder is {name!r}; make "
                    f"features-{name}-{table.dataset}"
                )
        tower = of_table(stored[0])
    else:
        settings = experiment.encoders[name]
        in_loop = load_tower(name, settings, inputs[WEIGHTS])
        tower = _described(name, in_loop.width, in_loop.encoder.tokens, identity(settings, inputs[WEIGHTS]))
        fingerprint["timm"], fingerprint["transformers"] = version("timm"), version("transformers")
    if "start" in inputs:
        _check_tower(tower, saving.read_config(inputs["start"], "a model")["tower"], inputs["start"].name)
    if tower["settings"]["pooling"] != "none":
        raise ConfigError(
            f"encoders.{name}.pooling: a vision-language model reads the tokens of an image; set it to none"
        )
    return VisionLanguageTask(
        shape,
        tokenizer,
        experiment.data.rows(shape, *_seen(tower)),
        tower,
        stored,
        in_loop,
        experiment.training.z_loss,
        vocabulary,
        begin,
        experiment.training.naming,
    )


def load(inputs: Mapping[str, Path], data: Mapping[str, object]) -> tuple[VisionLanguageTask, VisionLanguageModel]:
    """The task of a trained model, which reads stored features, and the model in eval mode.

    Raises `ArtifactError` for features of another encoder than the model was trained on.
    """
    model = VisionLanguageModel.load(inputs["model"]).eval()
    stored = _tables(inputs)
    for table in stored:
        if not table.identity.items() <= model.tower.items():
            raise ArtifactError(
                f"{table.directory}: features of the encoder {table.encoder!r} as it is now, but the model was trained on others of "
                f"{model.tower['encoder']!r}; train it again"
            )
    packing = cast(VisionData, data_of("vision_language", dict(data))).rows(model.config, *_seen(model.tower))
    task = VisionLanguageTask(
        model.config, TextTokenizer(inputs["tokenizer"]), packing, model.tower, stored, vocabulary=model.vocabulary
    )
    task.blank = trained_tower(model.tower, inputs[WEIGHTS]).blank()
    return task, model


def of_table(table: FeatureTable) -> TowerFeatures:
    """The description of stored features that is saved with a model."""
    return _described(table.encoder, table.width, table.tokens or 0, table.identity)


def _described(encoder: str, width: int, tokens: int, identity: Mapping[str, Any]) -> TowerFeatures:
    """The description of the features of an encoder, from its identity."""
    return {
        "encoder": encoder,
        "width": width,
        "tokens": tokens,
        "settings": identity["settings"],
        "weights": identity["weights"],
    }


def _seen(tower: TowerFeatures) -> tuple[Clips | None, Tiles | None, int | None]:
    """The frames of a clip and the crops of an image that the encoder of these features reads, and the side of a crop in pixels."""
    clips, tiles, side = (tower["settings"].get(name) for name in ("clips", "tiles", "image_size"))
    found = None if tiles is None else Tiles.model_validate(tiles)
    return None if clips is None else Clips.model_validate(clips), found, found.side or side if found else None


def _check_tower(tower: TowerFeatures, saved: TowerFeatures, start: str) -> None:
    """Raise `ConfigError` for a tower with other features than that of the model to continue. The frames of a clip and the crops of an image may be others."""

    def same(one: TowerFeatures) -> tuple[object, ...]:
        return one["weights"], {name: value for name, value in one["settings"].items() if name not in MAY_DIFFER}

    if same(tower) != same(saved):
        raise ConfigError(
            f"model.tower.encoder: {tower['encoder']!r} has other weights or settings than {saved['encoder']!r}, with which {start!r} was trained; "
            f"only {' and '.join(MAY_DIFFER)} may differ"
        )


def _tables(inputs: Mapping[str, Path]) -> list[FeatureTable]:
    return [
        FeatureTable(folder) for role, folder in inputs.items() if role == FEATURES or role.startswith(f"{FEATURES}.")
    ]
