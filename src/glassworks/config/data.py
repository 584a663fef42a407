"""Settings of the training and evaluation data of an experiment."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from glassworks.config.base import Name, Settings
from glassworks.config.needs import Need, Shards
from glassworks.config.needs import Tokenizer as TokenizerOf


class Tokenizer(Settings):
    """The tokenizer: trained on the training split, or reused from another experiment or published weights."""

    kind: Literal["bpe", "characters"] = "bpe"
    """`bpe`: byte-level BPE, which encodes any text. `characters`: one token per character of the training split."""
    vocab_size: Annotated[int, Field(ge=260, le=200_000)] = 1024
    """Size of the BPE vocabulary, including the 256 bytes and the special tokens."""
    of: str | None = None
    """Reuse the tokenizer of another experiment or of an entry under `weights` in params.yaml. Excludes `kind` and `vocab_size`."""

    @model_validator(mode="after")
    def _one_way(self) -> "Tokenizer":
        if self.of is not None and self.model_fields_set & {"kind", "vocab_size"}:
            raise ValueError("of: a tokenizer that is taken over has its own kind and vocab_size; remove them")
        return self

    @model_serializer(mode="wrap")
    def _only_what_holds(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"of": self.of} if self.of else write(self)


class Data(Settings):
    """Training and evaluation data."""

    dataset: Name
    """Name of a dataset in params.yaml."""

    def needs(self) -> dict[str, Need]:
        """Input artefacts of training, by role."""
        return {"shards": Shards("data.dataset", self.dataset)}


class TextData(Data):
    """Training data with texts."""

    tokenizer: Tokenizer = Tokenizer()
    """The tokenizer of the texts."""

    def needs(self) -> dict[str, Need]:
        found = super().needs()
        if self.tokenizer.of:
            found["tokenizer"] = TokenizerOf("data.tokenizer.of", self.tokenizer.of)
        return found
