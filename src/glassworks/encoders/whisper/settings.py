"""The encoder `whisper`."""

from typing import Literal

from glassworks.config.encoder import Encoder


class Whisper(Encoder):
    """The encoder of Whisper: one token for every 20 ms of the first 30 s."""

    encoder: Literal["whisper"] = "whisper"
    """The folder under encoders/."""
