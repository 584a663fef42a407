"""experiments/NAME.yaml: one experiment, from its data to its evaluation."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from glassworks.config.base import Settings, nearest, parse
from glassworks.config.evaluation import CaptioningEvaluation, LanguageModelEvaluation
from glassworks.config.model import Captioner, TextDecoder
from glassworks.config.optimization import Optimization
from glassworks.config.params import Name
from glassworks.config.training import Execution, Training
from glassworks.errors import ConfigError


class Tokenizer(Settings):
    """How text becomes tokens: by a tokenizer trained on the training split, or by that of a language model."""

    kind: Literal["bpe", "characters"] = "bpe"
    """Byte-level BPE, which covers any text, or one token for each character of the training split."""
    vocab_size: Annotated[int, Field(ge=260, le=200_000)] = 1024
    """Entries of the BPE vocabulary, the 256 bytes and the special tokens included."""
    of: str | None = None
    """Instead: the tokenizer of another experiment, or of an entry under `weights` in params.yaml."""

    @model_validator(mode="after")
    def _one_way(self) -> "Tokenizer":
        if self.of is not None and self.model_fields_set & {"kind", "vocab_size"}:
            raise ValueError("of: a tokenizer that is taken over has its own kind and vocab_size; remove them")
        return self


class Data(Settings):
    """What the experiment is trained and scored on."""

    dataset: Name
    """Name of a dataset in params.yaml."""
    tokenizer: Tokenizer = Tokenizer()
    """How text becomes tokens."""


class TextData(Data):
    """What a language model is trained and scored on."""

    packing: Literal["documents", "stream"] = "documents"
    """How texts fill rows of max_tokens: whole texts that do not see each other, with positions of their own; or one stream, cut wherever a row ends."""


class Experiment(Settings):
    """What every experiment has."""

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

    def reads(self) -> dict[str, str]:
        """What it takes over from elsewhere: names of experiments or weights by the key that names them."""
        return {"data.tokenizer.of": self.data.tokenizer.of} if self.data.tokenizer.of else {}


class Captioning(Experiment):
    """An image captioner."""

    task: Literal["captioning"]
    """The objective."""
    model: Captioner = Captioner()
    """The network."""
    evaluation: CaptioningEvaluation = CaptioningEvaluation()
    """How the trained model is scored."""

    @model_validator(mode="after")
    def _same_tokens(self) -> "Captioning":
        started = self.model.language_model
        if started is not None and self.data.tokenizer.of != started:
            raise ValueError(
                f"data.tokenizer: a decoder that begins as {started} reads its tokens; write {{of: {started}}}"
            )
        return self

    def reads(self) -> dict[str, str]:
        backbone = self.model.backbone.weights if self.model.backbone else None
        found = {"model.language_model": self.model.language_model, "model.backbone.weights": backbone}
        return super().reads() | {key: name for key, name in found.items() if name}


class LanguageModelling(Experiment):
    """A language model."""

    task: Literal["language_modelling"]
    """The objective."""
    data: TextData
    """What the experiment is trained and scored on."""
    model: TextDecoder = TextDecoder()
    """The network."""
    evaluation: LanguageModelEvaluation = LanguageModelEvaluation()
    """How the trained model is scored."""


TASKS: dict[str, type[Experiment]] = {"captioning": Captioning, "language_modelling": LanguageModelling}
"""The model of experiments/NAME.yaml by its `task`."""
AnyExperiment = Annotated[Captioning | LanguageModelling, Field(discriminator="task")]


def parse_experiment(value: Any, file: Path | str) -> Any:
    """The content of a file as the experiment that its `task` makes it; a `ConfigError` with one line per fault otherwise."""
    task = value.get("task") if isinstance(value, dict) else None
    if task is not None and task not in TASKS:
        raise ConfigError(f"{file}: task: unknown value {task!r}{nearest(str(task), list(TASKS))}")
    return parse(TASKS.get(task, Captioning), value, file)
