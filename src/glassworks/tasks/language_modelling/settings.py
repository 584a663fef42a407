"""experiments/NAME.yaml of the task `language_modelling`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from glassworks.config.base import Name
from glassworks.config.data import LossOptions, TextData
from glassworks.config.experiment import Experiment, Start
from glassworks.config.needs import Need, Weights
from glassworks.config.packing import Packing
from glassworks.config.training import Training
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.text_decoder import TextDecoder


class PackedData(TextData[LossOptions]):
    """Training data of a language model."""

    packing: Literal["documents", "stream"] = "documents"
    """Packing of texts and messages into rows of max_tokens. "documents" packs whole ones, with separate attention and positions. "stream" concatenates
    texts and cuts at every row end.
    """
    documents_per_row: Annotated[int | None, Field(ge=1, exclude_if=lambda most: most is None)] = None
    """Most texts, conversations or message trees in a row; null for no limit."""

    @model_validator(mode="after")
    def _documents_only(self) -> "PackedData":
        if self.documents_per_row is not None and self.packing == "stream":
            raise ValueError("documents_per_row: a stream has no documents; remove it, or set packing: documents")
        return self

    def rows(self, row_tokens: int) -> Packing:
        """The settings of the stage `pack` for rows of up to `row_tokens` inputs."""
        return Packing(row_tokens=row_tokens, packing=self.packing, documents_per_row=self.documents_per_row)


BaseDtype = Annotated[Literal["fp32", "bf16", "nf4", "int8"], Field(exclude_if=lambda dtype: dtype == "fp32")]
"""Precision of frozen weights under an adapter."""


class Model(TextDecoder, Start):
    """The network and its initial weights. With `from` or `weights` its shape is theirs."""

    weights: Annotated[Name | None, Field(exclude_if=lambda name: name is None)] = None
    """Start with published weights: an entry under `weights` in params.yaml in the layout of GPT-2, Llama or Qwen2. Set `data.tokenizer.of` to it, too, and
    `max_tokens`, the length of a row. With `from`, the weights whose adapter is continued.
    """
    adapter: Annotated[Adapter | None, Field(exclude_if=lambda adapter: adapter is None)] = None
    """Train an adapter of the model that `from` or `weights` names, whose weights stay as they are. The experiment publishes the adapter alone."""
    base_dtype: BaseDtype = "fp32"
    """Precision of the frozen weights under an adapter. bf16 halves their memory; it needs `training.precision: bf16`. nf4 and int8 quantise the linear
    layers of the blocks to 4.13 or 8 bits a weight; the other weights are held in `training.precision`. The adapter stays fp32.
    """

    @property
    def inherits(self) -> bool:
        return self.from_ is not None or self.weights is not None

    @property
    def trains_adapter(self) -> bool:
        return self.adapter is not None

    @model_serializer(mode="wrap")
    def _dump(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What both base classes dump; pydantic calls one serializer only."""
        dumped = self._without_later_defaults(write)
        return {key: value for key, value in dumped.items() if key in self.written} if self.inherits else dumped

    @model_validator(mode="after")
    def _divides(self) -> "Model":
        if not self.inherits:
            super()._divides()  # type: ignore[operator]
        return self

    @model_validator(mode="after")
    def _of_something(self) -> "Model":
        if self.adapter and not self.inherits:
            raise ValueError(
                "adapter: an adapter of random weights is of no use; name a trained model in `from`, or published weights in `weights`"
            )
        if self.base_dtype != "fp32" and not self.adapter:
            raise ValueError(f"base_dtype: {self.base_dtype} is for frozen weights under an adapter; remove it")
        if self.weights and "max_tokens" not in self.model_fields_set:
            raise ValueError("max_tokens: published weights allow long rows; write the length of a row in tokens")
        return self


class TokenTraining(Training):
    """Steps, global batch, precision, reduction, validation and selection, and the loss."""

    z_loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Weight of the squared logsumexp of the logits of every target, which keeps logits small (PaLM, Chowdhery et al., 2022, uses 1e-4)."""
    neftune: Annotated[float, Field(ge=0, allow_inf_nan=False, exclude_if=lambda alpha: alpha == 0)] = 0.0
    """Uniform noise on the token embeddings in training, of up to neftune / sqrt(T C): T tokens of the document, C the width (NEFTune, Jain et al., 2023,
    uses 5). The noise of a row follows from the seed, the epoch and the row.
    """


class LanguageModelling(Experiment):
    """A language model."""

    validated: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    scored_by: ClassVar[str | None] = "language"
    packed_by: ClassVar[tuple[str, ...]] = ("data", "model.max_tokens")

    task: Literal["language_modelling"]
    """The objective."""
    data: PackedData
    """Training data."""
    model: Model = Model()
    """The network."""
    training: TokenTraining
    """Steps, global batch, precision, validation, selection of the weights and the loss."""

    @model_validator(mode="after")
    def _suits_its_start(self) -> "LanguageModelling":
        weights, training = self.model.weights, self.training
        if weights and self.model.from_ is None and self.data.tokenizer.of != weights:
            raise ValueError(
                f"data.tokenizer: a model that begins as {weights} reads its tokens; write {{of: {weights}}}"
            )
        if fault := base_fault(self.model.base_dtype, training):
            raise ValueError(fault)
        return self

    @property
    def base_precision(self) -> tuple[Literal["fp32", "bf16"], Literal["nf4", "int8"] | None]:
        """Precision of the weights under an adapter, and that of the linear layers of the blocks if they are quantised."""
        return base_precision(self.model.base_dtype, self.training)

    def needs(self) -> dict[str, Need]:
        return super().needs() | self._weights_needs()

    def packing(self) -> Packing:
        return self.data.rows(self.model.max_tokens)

    def model_needs(self) -> dict[str, Need]:
        return (self._weights_needs() or self.start_needs()) if self.model.trains_adapter else {}

    def _weights_needs(self) -> dict[str, Need]:
        name = self.model.weights
        return {"weights": Weights("model.weights", name)} if name else {}


def base_fault(dtype: BaseDtype, training: Training) -> str:
    """The reason why training cannot hold frozen weights in `dtype`; empty without one."""
    allowed = {"fp32": ("fp32", "bf16", "fp16"), "bf16": ("bf16",)}.get(dtype, ("fp32", "bf16"))
    if training.precision in allowed and (dtype == "fp32" or training.reduction != "fsdp2"):
        return ""
    precisions = " or ".join(allowed)
    return f"model.base_dtype: {dtype} needs training.precision: {precisions}, and exact or ddp as reduction"


def base_precision(
    dtype: BaseDtype, training: Training
) -> tuple[Literal["fp32", "bf16"], Literal["nf4", "int8"] | None]:
    """Precision of the weights under an adapter, and that of the linear layers of the blocks if they are quantised."""
    if dtype == "fp32" or dtype == "bf16":
        return dtype, None
    return "bf16" if training.precision == "bf16" else "fp32", dtype
