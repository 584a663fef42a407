"""experiments/NAME.yaml of the task `fusion`."""

from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from glassworks.config.base import Name, Settings, nearest
from glassworks.config.data import LossOptions, TextData
from glassworks.config.experiment import Experiment
from glassworks.config.needs import Features, Model, Need, roles
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.fusion import FusedDecoder as Shape
from glassworks.models.settings.fusion import Input
from glassworks.tasks.language_modelling.settings import BaseDtype, TokenTraining, base_fault, base_precision

S = TypeVar("S", bound=Settings)


class Tower(Input):
    """A frozen encoder, and how its stored features become tokens of the decoder."""

    encoder: Name
    """An entry under `encoders` in params.yaml."""

    @property
    def plain(self) -> Input:
        """The tower without its encoder."""
        return Input(stack=self.stack, tokens=self.tokens)


class Network(Shape):
    """The decoder, its modalities and its initial weights."""

    towers: dict[Name, Tower] = Field(min_length=1)
    """Encoders by modality: `image`, `audio`, `text`."""
    adapter: Adapter | None = None
    """Train an adapter of `language_model`, whose weights stay as they are. The experiment publishes the adapter and the fusion."""
    base_dtype: BaseDtype = "fp32"
    """Precision of the frozen weights under an adapter, as in the task instruction."""

    def plain(self, settings: type[S]) -> S:
        """The shape alone: `settings`, a base class of this one."""
        return settings(**{name: getattr(self, name) for name in settings.model_fields})

    @model_validator(mode="after")
    def _an_adapter_of_something(self) -> "Network":
        if self.decoder is None and self.language_model is None:
            raise ValueError("give decoder, the shape of a new one, or language_model, a trained one")
        if self.adapter and not self.language_model:
            raise ValueError("adapter: name the trained model in language_model")
        if self.base_dtype != "fp32" and not self.adapter:
            raise ValueError(f"base_dtype: {self.base_dtype} is for frozen weights under an adapter; remove it")
        if self.language_model and self.max_tokens is None:
            raise ValueError("max_tokens: published weights allow long texts; write the longest text in tokens")
        return self


class FusionTraining(TokenTraining):
    """Steps, global batch, precision, reduction, validation and selection, and the loss."""

    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that training hides a modality of a sample. One of those that the sample has is always left. Makes the model work with each modality alone."""

    ctc: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default={}, exclude_if=lambda weights: not weights
    )
    """Weight of a CTC loss (Graves et al., 2006) by modality, such as `{audio: 0.5}`: the text, read off the tokens of the modality by the output layer
    (Watanabe et al., 2017). It teaches a decoder trained from scratch which token of speech stands for which part of the text. A text with more tokens
    than its modality has no such loss.
    """

    @model_validator(mode="after")
    def _without_noise_and_compiler(self) -> "FusionTraining":
        if self.neftune:
            raise ValueError("neftune: the task fusion has no noise; remove it")
        if self.compile:
            raise ValueError("compile: the rows of the task fusion have no fixed length; remove it")
        return self


class Fusion(Experiment):
    """A text decoder that reads the fused features of several modalities. The target is the first text of a sample."""

    validated: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    scored_by: ClassVar[str] = "transcription"

    task: Literal["fusion"]
    """The objective."""
    data: TextData[LossOptions]
    """The data of training and evaluation."""
    model: Network
    """The network."""
    training: FusionTraining
    """Steps, global batch, precision, validation, selection of the weights and the loss."""

    @model_validator(mode="after")
    def _suits_its_base(self) -> "Fusion":
        started = self.model.language_model
        if started is not None and self.data.tokenizer.of != started:
            raise ValueError(
                f"data.tokenizer: a decoder that begins as {started} reads its tokens; write {{of: {started}}}"
            )
        if fault := base_fault(self.model.base_dtype, self.training):
            raise ValueError(fault)
        for name in self.training.ctc:
            if name not in self.model.towers:
                raise ValueError(f"training.ctc: there is no tower {name!r}{nearest(name, list(self.model.towers))}")
        return self

    @property
    def base_precision(self) -> tuple[Literal["fp32", "bf16"], Literal["nf4", "int8"] | None]:
        """Precision of the weights under an adapter, and that of the linear layers of the blocks if they are quantised."""
        return base_precision(self.model.base_dtype, self.training)

    def needs(self) -> dict[str, Need]:
        found = super().needs()
        if self.model.language_model:
            found |= self._base_needs()
        datasets = [*self.data.datasets, *self.data.held_out_splits]
        for name, tower in self.model.towers.items():
            own = roles(features_role(name), datasets)
            found |= {role: Features(_key(name), tower.encoder, dataset) for dataset, role in own.items()}
        return found

    def model_needs(self) -> dict[str, Need]:
        return self._base_needs() if self.model.adapter else {}

    def evaluation_needs(self, dataset: str) -> dict[str, Need]:
        towers = self.model.towers.items()
        return {features_role(name): Features(_key(name), tower.encoder, dataset) for name, tower in towers}

    def _base_needs(self) -> dict[str, Need]:
        assert self.model.language_model is not None
        return {"base": Model("model.language_model", self.model.language_model, task="language_modelling")}


def features_role(tower: str) -> str:
    """The role of the stored features of a tower; that of one of several datasets is this, a dot and its name."""
    return f"features.{tower}"


def _key(tower: str) -> str:
    return f"model.towers.{tower}.encoder"
