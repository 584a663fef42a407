"""experiments/NAME.yaml: one experiment, from its data to its evaluation."""

import json
from typing import Any, ClassVar

from pydantic import model_validator

from glassworks.config import registry
from glassworks.config.base import Settings
from glassworks.config.data import Data
from glassworks.config.needs import Need
from glassworks.config.optimization import Optimization
from glassworks.config.training import Execution, Training


class Experiment(Settings):
    """What every experiment has."""

    scored_by: ClassVar[str]
    """The evaluation of an experiment whose file names none: a folder under evaluation/."""

    task: str
    """The objective."""
    data: Data
    """What the experiment is trained and scored on."""
    optimization: Optimization = Optimization()
    """Optimizer and schedule."""
    training: Training
    """The run."""
    execution: Execution = Execution()
    """How the run is carried out; never changes a byte."""

    @model_validator(mode="after")
    def _a_part_for_every_node(self) -> "Experiment":
        nodes, parts = self.execution.nodes, self.training.micro_batches
        if nodes > parts:
            raise ValueError(f"execution.nodes {nodes}: training.micro_batches {parts} gives work to {parts} at most")
        return self

    def modules(self) -> tuple[str, ...]:
        """Modules of the registry that train and run the model, relative to the package: those of the task, and of what it names."""
        return registry.modules("tasks", self.task)

    def needs(self) -> dict[str, Need]:
        """What it takes from elsewhere, by role."""
        return self.data.needs() | self.model_needs()

    def model_needs(self) -> dict[str, Need]:
        """Inputs that the trained model needs whenever it runs, such as a frozen encoder; its evaluations read them, too."""
        return {}


def experiment_of(params: dict[str, Any], execution: Execution) -> Experiment:
    """The experiment that a training stage runs, from its resolved parameters."""
    settings = registry.settings_class("tasks", params["task"], Experiment)
    sections = {name: params[name] for name in ("task", "data", "model", "optimization", "training")}
    return settings.model_validate_json(json.dumps({**sections, "execution": execution.model_dump(mode="json")}))
