"""Settings of decoding. Their descriptions are the help texts of `glassworks generate` and `glassworks caption`."""

from typing import Annotated

from pydantic import Field, model_validator

from glassworks.config.base import Settings

Count = Annotated[int, Field(ge=1)]


class Decoding(Settings):
    """Settings of decoding: greedy by default, random draws with a `temperature`, beam search with several `beams`."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Divides the logits before each random draw. 0 draws nothing and takes the likeliest token. 1 draws from the distribution of the model; 0.7 is more
    careful."""
    top_k: Count | None = None
    """Draw only among this many of the likeliest tokens. Needs a temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw only among the fewest likeliest tokens that together have this probability (nucleus sampling, Holtzman et al., 2020). 0.9 cuts the unlikely tail.
    Needs a temperature."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Draw only tokens with at least this fraction of the highest probability (Nguyen et al., 2024). 0.05 suits high temperatures. Needs a temperature."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Divides the positive logits of tokens in the prompt and the text so far, and multiplies the negative ones (CTRL, Keskar et al., 2019). Above 1 discourages
    repetition; 1.1 to 1.3 stops a small model from repeating itself."""
    beams: Count = 1
    """Texts that beam search keeps at every step. 1 is no search."""
    length_penalty: float = 0.7
    """Beam search divides a text's log-probability by its length to this power. 0 favours short texts. 1 compares means per token. Larger values favour long
    texts."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """A text does not end before this many new tokens."""
    max_new_tokens: Count | None = None
    """A text has at most this many new tokens, its end included. The context of the model limits it too."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random draws. The same seed gives the same text, whatever other texts are generated in the same call."""

    @model_validator(mode="after")
    def _go_together(self) -> "Decoding":
        drawn = [
            name for name in ("top_k", "top_p", "min_p") if getattr(self, name) != Decoding.model_fields[name].default
        ]
        if self.beams > 1 and self.temperature:
            raise ValueError(
                "beams search for the likeliest text and temperature draws one at random; set only one of them"
            )
        if drawn and not self.temperature:
            raise ValueError(
                f"{drawn[0]} limits random draws, and without temperature nothing is drawn; set temperature (such as 0.8)"
            )
        if self.max_new_tokens and self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}")
        return self
