"""Settings of the evaluation `boards`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from glassworks.config.data import Data
from glassworks.config.evaluation import Evaluation
from glassworks.config.needs import Need

Count = Annotated[int, Field(ge=1)]


class BoardsEvaluation(Evaluation):
    """Counts the boards of a held-out split that a recursive model solves in every cell, by the number of its supervision steps and of noisy tries."""

    scores: ClassVar[tuple[str, ...]] = ("puzzles",)

    kind: Literal["boards"] = "boards"
    """Evaluation to run: the name of a folder under evaluation/. Defaults to the name of the section."""
    batch_size: Count = 100
    """Boards answered at a time."""
    depths: list[Count] = Field(default=[1, 2, 4, 8, 16, 32, 64])
    """Supervision steps after which the answers are scored, beside those that the model was trained with, which give the headline score."""
    tries: list[Count] = Field(default=[1, 4, 16])
    """Numbers of noisy tries. The answer of a board is that of the try with the highest halting logit (PTRM, Sghaier et al., 2026). Empty for none."""
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.2
    """Standard deviation of the Gaussian noise that a try adds to the latent state before every supervision step. The state has unit variance."""
    tried_boards: Count | None = None
    """Boards that are tried, from the start of the split; null tries all."""

    @model_validator(mode="after")
    def _ascending(self) -> "BoardsEvaluation":
        if self.depths != sorted(set(self.depths)) or self.tries != sorted(set(self.tries)):
            raise ValueError("depths and tries must ascend, each number once")
        return self

    def needs(self, name: str, data: Data) -> dict[str, Need]:
        return {"shards": super().needs(name, data)["shards"]}
