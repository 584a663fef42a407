"""Settings common to all evaluations, in the section `evaluations` of experiments/NAME.yaml."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from glassworks.config import registry
from glassworks.config.base import Name, Settings
from glassworks.config.data import Data
from glassworks.config.needs import Need, Shards


class Evaluation(Settings):
    """Evaluation of a trained model. Each folder under evaluation/ defines one subclass."""

    scores: ClassVar[tuple[str, ...]] = ()
    """Tasks whose models this evaluation can score."""

    kind: str
    """Evaluation to run: the name of a folder under evaluation/. Defaults to the name of the section."""
    dataset: Name | None = None
    """Dataset in params.yaml to score on; null uses the training dataset of the model, the first one of a mixture."""
    split: Literal["train", "validation", "test"] = "test"
    """Split to score."""
    max_samples: Annotated[int, Field(ge=2)] | None = None
    """Number of samples to score, from the start of the split; null scores all."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "cpu"
    """Device to score on. A GPU is faster, but its metrics may differ from CPU metrics in the last digits."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples of the split for each 95 % interval."""

    def needs(self, name: str, data: Data) -> dict[str, Need]:
        """Input artefacts by role, except the model and its tokenizer. `name` is the evaluation, `data` the data of its experiment."""
        key, trained_on = next((key, part.dataset) for key, part in data.parts.items())
        scored = Shards(f"evaluations.{name}.dataset", self.dataset) if self.dataset else Shards(key, trained_on)
        return {"shards": scored, **data.training_needs("training_shards")}

    def read(self, needs: dict[str, Need]) -> dict[str, Need]:
        """Those of the needs of the experiment that this evaluation reads. Raises `ValueError` for settings that do not fit them."""
        return needs


def evaluation_of(settings: dict[str, Any]) -> Evaluation:
    """The evaluation of a stage, parsed from the resolved settings."""
    return registry.settings_class("evaluation", settings["kind"], Evaluation).model_validate_json(json.dumps(settings))
