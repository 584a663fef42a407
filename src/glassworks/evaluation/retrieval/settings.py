"""Settings of the evaluation `retrieval`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from glassworks.config.base import Name, nearest
from glassworks.config.data import Data
from glassworks.config.evaluation import Evaluation
from glassworks.config.needs import Need

FEATURES = "features."
"""The prefix of the role of the features of a tower."""


class RetrievalEvaluation(Evaluation):
    """Finds the partner of each sample among all samples of a held-out split, between all modalities in both directions. Scores recall, nDCG and median rank, beside controls."""

    scores: ClassVar[tuple[str, ...]] = ("alignment",)

    kind: Literal["retrieval"] = "retrieval"
    """Evaluation to run: the name of a folder under evaluation/. Defaults to the name of the section."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Samples embedded at a time."""
    one_per_group: bool = False
    """Score only the first sample of each group, such as one drawing for each concept of OpenMoji."""
    towers: Annotated[list[Name], Field(exclude_if=lambda names: not names)] = Field(default=[])
    """Towers of the model to compare; empty is all. A data set without sounds needs those of images and texts only."""
    ridge: Annotated[int, Field(ge=0)] = 20_000
    """Training samples of the controls ridge regression and ASIF; 0 leaves both out."""

    def needs(self, name: str, data: Data) -> dict[str, Need]:
        return {"shards": super().needs(name, data)["shards"]}

    def read(self, needs: dict[str, Need]) -> dict[str, Need]:
        known = [role.removeprefix(FEATURES) for role in needs]
        for name in self.towers:
            if name not in known:
                raise ValueError(f"towers: there is no tower {name!r}{nearest(name, known)}")
        if len(self.towers) == 1:
            raise ValueError("towers: name at least two")
        return {role: need for role, need in needs.items() if role.removeprefix(FEATURES) in (self.towers or known)}
