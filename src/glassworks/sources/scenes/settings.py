"""Settings of the source `scenes`."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.datasets import ComposedDataset, Credit, Speech

CREDIT = Credit(
    title="Scenes composed from OpenMoji drawings",
    licence="CC BY-SA 4.0 (creativecommons.org/licenses/by-sa/4.0)",
    credit="All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0",
    derivation="Every scene places drawings of the data set {sprites} on a ground of one colour and texture, by a "
    "seed; captions and labels say what was placed where, so they are exact. The scenes are adaptations "
    "of the drawings and stand under the same licence. With `speech`, hibari-tts (Apache-2.0) speaks the captions.",
)


class Scenes(ComposedDataset):
    """Scenes composed from OpenMoji sprites: a pure function of the sprites and a seed, with exact captions and labels."""

    source: Literal["scenes"]
    speech: Annotated[Speech | None, Field(exclude_if=lambda speech: speech is None)] = None
    """Also the first caption of each scene as speech, a FLAC file beside the image; null for none. `{}` takes the default voice."""
