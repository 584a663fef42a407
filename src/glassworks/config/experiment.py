"""Settings common to all experiments (experiments/NAME.yaml)."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar, cast

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from glassworks.config import registry
from glassworks.config.base import Name, Settings, nearest
from glassworks.config.data import Data, TextData
from glassworks.config.datasets import Dataset
from glassworks.config.encoder import Encoder, ImageEncoder
from glassworks.config.needs import Encoding, Initial, Need
from glassworks.config.optimization import Optimization
from glassworks.config.packing import Packing
from glassworks.config.training import Execution, Training, check_metric

S = TypeVar("S", bound=Settings)


class Start(Settings):
    """Initial weights: a base class of the section `model` of a task."""

    model_config = ConfigDict(serialize_by_alias=True)

    from_: Annotated[Name | None, Field(alias="from", exclude_if=lambda name: name is None)] = None
    """Continue from another experiment of the same task: its published weights are the initial weights, and its shape need not be repeated. Set
    `data.tokenizer.of` to it, too.
    """

    @property
    def inherits(self) -> bool:
        """Whether the shape comes with the initial weights. Then only written settings are dumped, and the task reads the others from the weights."""
        return self.from_ is not None

    @property
    def trains_adapter(self) -> bool:
        """Whether the training publishes an adapter, without the weights of its base."""
        return False

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = write(self)
        return {key: value for key, value in dumped.items() if key in self.written} if self.inherits else dumped

    @property
    def written(self) -> set[str]:
        """The keys that the section has in its file."""
        return {type(self).model_fields[name].alias or name for name in self.model_fields_set}

    def plain(self, settings: type[S]) -> S:
        """The model without its initial weights: `settings`, a base class of this one."""
        return settings(**{name: getattr(self, name) for name in settings.model_fields})


class Experiment(Settings):
    """Settings common to all experiments."""

    validated: ClassVar[tuple[str, ...]] = ()
    """Validation metrics of the task; empty if they are known only at the start of training."""
    scored_by: ClassVar[str | None]
    """Default evaluation if the file lists none: the name of a folder under evaluation/; None for no evaluation."""
    continues: ClassVar[tuple[str, ...]] = ()
    """Other tasks whose models `model.from` may name."""
    packed_by: ClassVar[tuple[str, ...]] = ()
    """Key paths that `packing` depends on."""

    task: str
    """Training objective: the name of a folder under tasks/."""
    data: Data
    """Training and evaluation data."""
    optimization: Optimization = Optimization()
    """Optimizer, schedule and parameter groups."""
    training: Training
    """Steps, global batch, precision, validation and selection of the weights."""
    execution: Execution = Execution()
    """Checkpoints, processes, nodes and loggers. Does not affect the bytes of the model."""

    _encoders: dict[str, Encoder] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _a_part_for_every_node(self) -> "Experiment":
        nodes, parts = self.execution.nodes, self.training.micro_batches
        if nodes > parts:
            raise ValueError(f"execution.nodes {nodes}: training.micro_batches {parts} gives work to {parts} at most")
        return self

    @model_validator(mode="after")
    def _selected_by_a_metric(self) -> "Experiment":
        if self.validated:
            check_metric(self.training.selection, self.validated, list(self.data.held_out_splits))
        return self

    @model_validator(mode="after")
    def _settings_that_do_something(self) -> "Experiment":
        if self.optimization.optimizer == "Muon" and self.training.reduction == "fsdp2":
            raise ValueError("optimization.optimizer: Muon needs whole matrices, which fsdp2 shards; use exact or ddp")
        if self.optimization.optimizer == "AdamW8bit" and self.training.reduction == "fsdp2":
            raise ValueError(
                "optimization.optimizer: AdamW8bit needs whole tensors, which fsdp2 shards; use exact or ddp"
            )
        fault = self.optimization.fault(self.training.steps) if self.training.steps else None
        if fault:
            raise ValueError(fault)
        if self.data.held_out == {} and (setting := self.training.selection.needs_validation):
            raise ValueError(
                f"training.selection.{setting} needs validation data, and data.held_out lists none; remove one of them"
            )
        return self

    def modules(self) -> tuple[str, ...]:
        """Registry modules that train and run the model, relative to the package. Subclasses add those of the components they name."""
        return registry.modules("tasks", self.task)

    def packing(self) -> Packing | None:
        """The settings of the stage `pack`; None for a task with one sample a row."""
        return None

    def needs(self) -> dict[str, Need]:
        """All input artefacts of training, by role."""
        return self.data.needs() | self.model_needs() | self.start_needs()

    def start_needs(self) -> dict[str, Need]:
        """The model that the training continues from."""
        model = getattr(self, "model", None)
        start = model.from_ if isinstance(model, Start) else None
        return {"start": Initial("model.from", start, self.task, self.continues)} if start else {}

    def model_needs(self) -> dict[str, Need]:
        """Input artefacts that the trained model needs for inference, such as a frozen encoder. Evaluations read them, too."""
        return {}

    def evaluation_needs(self, dataset: str) -> dict[str, Need]:
        """Input artefacts that an evaluation on a dataset needs beside its shards, such as features."""
        return {}

    def encoder_faults(self, encoders: Mapping[str, Encoder]) -> list[str]:
        """The reasons why training cannot read the encoders that it names, among those of params.yaml: here tiles, which most tasks do not read."""
        named = {need.name: need.key for need in self.needs().values() if isinstance(need, Encoding)}
        return [
            f"{key}: {name!r} has tiles, and the task {self.task} reads one image a sample; name an encoder without them"
            for name, key in named.items()
            if isinstance(encoder := encoders.get(name), ImageEncoder) and encoder.tiles is not None
        ]

    def dataset_faults(self, datasets: Mapping[str, Dataset]) -> list[str]:
        """The reasons why an experiment cannot read the data sets that it names, among those of params.yaml: here unknown ones of its tokenizer."""
        further = self.data.tokenizer.datasets if isinstance(self.data, TextData) else []
        return [
            f"data.tokenizer.datasets: params.yaml has no dataset {name!r}{nearest(name, list(datasets))}"
            for name in further
            if name not in datasets
        ]

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The entries under `encoders` in params.yaml, by name. `load_project` fills in all, and `experiment_of` those that training runs."""
        return self._encoders


def experiment_of(params: dict[str, Any], execution: Execution) -> Experiment:
    """The experiment of a training stage, parsed from the resolved parameters."""
    settings = registry.settings_class("tasks", params["task"], Experiment)
    sections = {name: params[name] for name in ("task", "data", "model", "optimization", "training")}
    found = settings.model_validate_json(json.dumps({**sections, "execution": execution.model_dump(mode="json")}))
    for name, entry in params.get("encoders", {}).items():
        encoder = registry.settings_class("encoders", entry["encoder"], Encoder)
        found._encoders[name] = encoder.model_validate_json(json.dumps(entry))
    return found


def data_of(task: str, section: dict[str, Any]) -> Data:
    """The section `data` of an experiment, parsed from the resolved parameters."""
    settings = registry.settings_class("tasks", task, Experiment)
    return cast(type[Data], settings.model_fields["data"].annotation).model_validate_json(json.dumps(section))
