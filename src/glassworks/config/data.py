"""What an experiment is trained and scored on."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from glassworks.config.base import Name, Settings
from glassworks.config.needs import Need, Shards
from glassworks.config.needs import Tokenizer as TokenizerOf


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

    @model_serializer(mode="wrap")
    def _only_what_holds(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"of": self.of} if self.of else write(self)


class Data(Settings):
    """What the experiment is trained and scored on."""

    dataset: Name
    """Name of a dataset in params.yaml."""

    def needs(self) -> dict[str, Need]:
        """Inputs of training, by role."""
        return {"shards": Shards("data.dataset", self.dataset)}


class TextData(Data):
    """Training data with texts."""

    tokenizer: Tokenizer = Tokenizer()
    """How text becomes tokens."""

    def needs(self) -> dict[str, Need]:
        found = super().needs()
        if self.tokenizer.of:
            found["tokenizer"] = TokenizerOf("data.tokenizer.of", self.tokenizer.of)
        return found
