"""The encoder `sentence`."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.encoder import Encoder


class Sentence(Encoder):
    """A sentence encoder such as all-MiniLM-L6-v2: one unit vector for the first text of a sample."""

    encoder: Literal["sentence"] = "sentence"
    """The folder under encoders/."""
    max_tokens: Annotated[int, Field(ge=2)] = 128
    """Maximum tokens of a text; longer texts are truncated."""
