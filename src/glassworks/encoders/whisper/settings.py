"""The encoder `whisper`."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.encoder import Encoder


class Whisper(Encoder):
    """The encoder of Whisper: one token for every 20 ms of the first `seconds`."""

    encoder: Literal["whisper"] = "whisper"
    """The folder under encoders/."""
    seconds: Annotated[int, Field(ge=1, le=30)] = 30
    """Length of the window; longer sounds are cut. A window of 4 s costs a tenth of one of 30 s and gives other features."""
    layer: int = -1
    """Block that gives the tokens; -1 is followed by the final norm."""
    stride: Annotated[int, Field(ge=1, exclude_if=lambda stride: stride == 1)] = 1
    """Neighbouring tokens whose mean is one token. 2 stores half as many, one for every 40 ms."""
