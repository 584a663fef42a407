"""Settings of clips: the frames that a model sees."""

from typing import Annotated

from pydantic import Field

from glassworks.config.base import Settings


class Clips(Settings):
    """The frames of a clip that a model sees, chosen as by Molmo2's `uniform_last_frame`."""

    frames: Annotated[int, Field(ge=2)]
    """Most frames of a clip. A longer clip is sampled evenly, its first and its last frame included."""
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """Frames a second of a clip that is short enough. Its last frame is always seen."""

    def numbers(self, frames: int, seconds: float) -> list[int]:
        """The numbers of the frames to see, ascending and distinct, of a clip of `frames` frames that lasts `seconds`."""
        last = frames - 1
        if seconds > (self.frames - 1) / self.rate:
            count = min(self.frames, frames)
            return [place * last // (count - 1) for place in range(count)] if count > 1 else [0]
        step = max(frames / seconds / self.rate, 1.0)
        found, place = [0], 1
        while place * step < last:
            found.append(round(place * step))
            place += 1
        return found if found[-1] == last else [*found, last]
