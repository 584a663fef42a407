"""Settings of the source `spoken_openmoji`."""

from typing import Annotated, Literal

from pydantic import Field

from glassworks.config.datasets import Credit, Dataset, Speech
from glassworks.config.needs import Records

CREDIT = Credit(
    title="OpenMoji drawings with spoken names",
    licence="CC BY-SA 4.0 (creativecommons.org/licenses/by-sa/4.0)",
    credit="All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0. "
    "Speech by hibari (Apache-2.0), which was distilled from Kokoro-82M (Apache-2.0)",
    derivation="The drawings of the data set {drawings} are rendered to square PNG images, and their names are spoken by "
    "hibari-tts and resampled to 16 kHz. The renders are adaptations under the same licence.",
)


class SpokenOpenMoji(Dataset):
    """The named drawings of an `openmoji` dataset with their names spoken: aligned triplets of image, speech and text."""

    source: Literal["spoken_openmoji"]
    drawings: str
    """Name of the `openmoji` dataset. Its splits and groups are kept."""
    size: Annotated[int, Field(ge=8, le=2048)] = 128
    """Side of the rendered square image in pixels."""
    skin_tones: bool = False
    """Also the drawings with a skin tone, which are half of all."""
    aliases: bool = False
    """Also a sample for every alias of a drawing, with speech and text and without an image."""
    speech: Speech = Speech()
    """How names are spoken."""

    def needs(self) -> dict[str, Records]:
        return {"drawings": Records("drawings", self.drawings, source="openmoji")}
