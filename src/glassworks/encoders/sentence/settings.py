"""The encoder `sentence`."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.encoder import Encoder


class Sentence(Encoder):
    """A sentence encoder such as all-MiniLM-L6-v2: one vector for each of the first texts of a sample."""

    encoder: Literal["sentence"] = "sentence"
    """The folder under encoders/."""
    max_tokens: Annotated[int, Field(ge=2)] = 128
    """Maximum tokens of a text; longer texts are truncated."""
    texts: Annotated[int, Field(ge=1)] = 1
    """Texts of a sample that are encoded, such as a name and its aliases. With `pooling: none`, training draws one of them."""
    layer: int = -1
    """Block that gives the tokens before they are pooled."""

    @property
    def gives_tokens(self) -> bool:
        """False: without pooling there is one vector for each text."""
        return False
