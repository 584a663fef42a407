"""experiments/NAME.yaml: one experiment, from its data to its evaluation."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.base import Settings
from glassworks.config.evaluation import Evaluation
from glassworks.config.model import Captioner
from glassworks.config.optimization import Optimization
from glassworks.config.params import Name
from glassworks.config.training import Execution, Training


class Tokenizer(Settings):
    """A byte-level BPE tokenizer, trained on the training split."""

    vocab_size: Annotated[int, Field(ge=260, le=200_000)] = 1024
    """Entries, the 256 bytes and the special tokens included."""


class Data(Settings):
    """What the experiment is trained and scored on."""

    dataset: Name
    """Name of a dataset in params.yaml."""
    tokenizer: Tokenizer = Tokenizer()
    """The tokenizer, trained on the captions of the training split."""


class Experiment(Settings):
    """One experiment."""

    task: Literal["captioning"]
    """The objective."""
    data: Data
    """What the experiment is trained and scored on."""
    model: Captioner = Captioner()
    """Shapes of the network."""
    optimization: Optimization = Optimization()
    """Optimizer and schedule."""
    training: Training
    """The run."""
    execution: Execution = Execution()
    """How the run is carried out; never changes a byte."""
    evaluation: Evaluation = Evaluation()
    """How the trained model is scored."""
