"""experiments/NAME.yaml of the task `vision_language`."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Name, Settings, nearest
from glassworks.config.clips import Clips
from glassworks.config.data import LossOptions, TextData
from glassworks.config.datasets import Dataset
from glassworks.config.encoder import Encoder, ImageEncoder
from glassworks.config.experiment import Experiment, Start
from glassworks.config.needs import EncoderWeights, Features, Model, Need, roles
from glassworks.config.packing import Packing
from glassworks.config.tiles import Crops, Tiles
from glassworks.models.settings.vision_language import VisionLanguage as Shape
from glassworks.tasks.language_modelling.settings import TokenTraining

FEATURES, WEIGHTS = "features", "tower"
"""Roles of the stored features, that of one of several datasets is this, a dot and its name; and of the weights of a tower in the training step."""


class VisionOptions(LossOptions):
    """Options of a dataset."""

    images: bool = True
    """Whether samples hold images or clips. A dataset of texts and conversations only has no features."""
    answer_weights: Literal["roots", "flat"] = "roots"
    """Weights of the loss. `roots`: 2 / sqrt(n) for a token of an answer of n tokens, times 1 / sqrt(m) in a tree of m branches. `flat`: 1."""
    kinds: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default={})
    """Weights of the tokens of some kinds of questions, in place of the roots, such as `{where: 0.2}`."""


class VisionData(TextData[VisionOptions]):
    """Training data: message trees and conversations with images and clips, and texts."""

    images_per_row: Annotated[int | None, Field(ge=1, exclude_if=lambda most: most is None)] = None
    """Most images, crops of images and frames of clips in a row; null for no limit."""
    documents_per_row: Annotated[int | None, Field(ge=1, exclude_if=lambda most: most is None)] = None
    """Most texts, conversations or message trees in a row; null for no limit."""

    def rows(self, shape: Shape, clips: Clips | None, tiles: Tiles | None, side: int | None) -> Packing:
        """The settings of the stage `pack`. `clips` and `tiles` are those of the encoder, `side` is that of a crop in pixels."""
        images = shape.images(clips, tiles, side, self.images_per_row)
        return Packing(row_tokens=shape.row_tokens, documents_per_row=self.documents_per_row, images=images)


class Tower(Settings):
    """A frozen encoder of images and of the frames of clips."""

    encoder: Name
    """An entry under `encoders` in params.yaml, with `pooling: none`."""
    features: Literal["stored", "loop"] = "stored"
    """`stored`: read the features that the stage `features` has computed once. `loop`: run the encoder in every training step, for the same result."""


class VisionTraining(TokenTraining):
    """Steps, global batch, precision, reduction, validation and selection, and the loss."""

    naming: Annotated[float, Field(ge=0, allow_inf_nan=False, exclude_if=lambda weight: weight == 0)] = 0.0
    """Weight of a further loss: the name of the object at each image token, from the boxes in `labels.objects`, read off the connector by the output layer.
    It teaches a decoder trained from scratch which word means which part of an image.
    """

    @model_validator(mode="after")
    def _without_noise(self) -> "VisionTraining":
        if self.neftune:
            raise ValueError("neftune: the task vision_language has no noise; remove it")
        return self


class Network(Shape, Start):
    """The network, its tower and its initial weights."""

    REPLACED: ClassVar[frozenset[str]] = frozenset({"tower"})
    """Written anew by an experiment that continues another: the frames of a clip and the crops of an image may be others."""

    tower: Tower
    """The frozen encoder whose features are the image tokens."""


class VisionLanguage(Experiment):
    """A vision-language model: a decoder that answers questions about images."""

    validated: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    scored_by: ClassVar[str] = "questions"
    packed_by: ClassVar[tuple[str, ...]] = ("data", "model")

    task: Literal["vision_language"]
    """The objective."""
    data: VisionData
    """Training data."""
    model: Network
    """The network."""
    training: VisionTraining
    """Steps, global batch, precision, validation, selection of the weights and the loss."""

    @model_validator(mode="after")
    def _same_tokens(self) -> "VisionLanguage":
        if not any(self.data.options_of(name).images for name in self.data.datasets):
            raise ValueError("data: no dataset has images; use the task language_modelling, or set images: true")
        started = self.model.language_model
        if started and self.model.from_:
            raise ValueError("model.language_model: `from` replaces its weights; remove this key")
        if started is not None and self.data.tokenizer.of != started:
            raise ValueError(
                f"data.tokenizer: a decoder that begins as {started} reads its tokens; write {{of: {started}}}"
            )
        if started is not None and self.model.max_tokens is None:
            raise ValueError("model.max_tokens: published weights allow long rows; write the length of a row in tokens")
        return self

    def packing(self) -> Packing:
        encoder = self.encoders.get(self.model.tower.encoder)
        if not isinstance(encoder, ImageEncoder):
            return self.data.rows(self.model, None, None, None)
        return self.data.rows(self.model, encoder.clips, encoder.tiles, encoder.crop_side)

    def dataset_faults(self, datasets: Mapping[str, Dataset]) -> list[str]:
        """Weights of kinds of questions that a data set does not have."""
        faults = super().dataset_faults(datasets)
        for name in self.data.datasets:
            known = datasets[name].question_kinds() if name in datasets else []
            faults += [
                f"data: options.kinds of {name}: it has no questions of the kind {kind!r}{nearest(kind, known)}"
                for kind in self.data.options_of(name).kinds
                if known and kind not in known
            ]
        return faults

    def encoder_faults(self, encoders: Mapping[str, Encoder]) -> list[str]:
        """Tiles that only the encoder has, or only the model, and those that cannot be cut."""
        name, connector = self.model.tower.encoder, self.model.connector
        encoder = encoders.get(name)
        if not isinstance(encoder, ImageEncoder):
            return []
        tiles, window, where = encoder.tiles, connector.tile_window, f"encoders.{name}.tiles"
        if tiles is None or encoder.crop_side is None:
            found = (
                f"model.connector.tile_window: the encoder {name!r} cuts no tiles; give it `tiles`, or remove this key"
            )
            return [found] if window is not None else []
        if window is None:
            return [
                f"model.tower.encoder: {name!r} has tiles, and this model reads whole images; set model.connector.tile_window, or name an encoder without them"
            ]
        crops = Crops(most=tiles.most, margin=tiles.margin, side=encoder.crop_side, grid=self.model.grid)
        if crops.fault:
            return [f"{where}: {crops.fault}"]
        if crops.step < window:
            return [
                f"{where}.margin: two margins of {tiles.margin} leave {crops.step} of the {crops.grid} patches of a crop, fewer than "
                f"model.connector.tile_window ({window}); lower it"
            ]
        return []

    def needs(self) -> dict[str, Need]:
        found, tower = super().needs(), self.model.tower
        if self.model.language_model:
            name = self.model.language_model
            found["language_model"] = Model("model.language_model", name, task="language_modelling")
        if tower.features == "loop":
            found[WEIGHTS] = EncoderWeights("model.tower.encoder", tower.encoder)
        else:
            datasets = [*self.data.datasets, *self.data.held_out_splits]
            pictured = [name for name in datasets if self.data.options_of(name).images]
            own = roles(FEATURES, pictured)
            found |= {role: Features("model.tower.encoder", tower.encoder, name) for name, role in own.items()}
        return found

    def evaluation_needs(self, dataset: str) -> dict[str, Need]:
        key, encoder = "model.tower.encoder", self.model.tower.encoder
        return {FEATURES: Features(key, encoder, dataset), WEIGHTS: EncoderWeights(key, encoder)}
