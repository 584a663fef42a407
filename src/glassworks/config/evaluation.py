"""The section `evaluations` of experiments/NAME.yaml: the settings that every evaluation has."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from glassworks.config import registry
from glassworks.config.base import Name, Settings
from glassworks.config.needs import Need, Shards


class Evaluation(Settings):
    """How a trained model is scored. Each kind has a folder under evaluation/ with a subclass of this."""

    scores: ClassVar[tuple[str, ...]] = ()
    """Tasks whose models this kind can score."""

    kind: str
    """The folder under evaluation/ that scores; the name of the evaluation by default."""
    dataset: Name | None = None
    """Dataset in params.yaml to score on; null is the one that the model was trained on."""
    split: Literal["train", "validation", "test"] = "test"
    """Split to score."""
    max_samples: Annotated[int, Field(ge=2)] | None = None
    """Score only the first samples of the split, this many; null scores all."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Device to score on. A GPU is faster, but its metrics may differ from those of a CPU in the last digits."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of the split behind each 95 % interval."""

    def needs(self, name: str, trained_on: str) -> dict[str, Need]:
        """Inputs beside the model and its tokenizer, by role, for the evaluation `name` of a model trained on the dataset `trained_on`."""
        return {
            "shards": Shards(f"evaluations.{name}.dataset", self.dataset or trained_on),
            "training_shards": Shards("data.dataset", trained_on),
        }


def evaluation_of(settings: dict[str, Any]) -> Evaluation:
    """The evaluation that a stage runs, from its resolved settings."""
    return registry.settings_class("evaluation", settings["kind"], Evaluation).model_validate_json(json.dumps(settings))
