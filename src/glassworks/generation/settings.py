"""How texts are decoded: every setting, and which of them go together."""

from typing import Annotated

from pydantic import Field, model_validator

from glassworks.config.base import Settings

Count = Annotated[int, Field(ge=1)]


class Decoding(Settings):
    """Greedy unless `temperature` (a random draw for every token) or `beams` (a search for the likeliest text) say otherwise."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    """What logits are divided by before a token is drawn; 0 takes the likeliest token."""
    top_k: Count | None = None
    """Draw among the so many likeliest tokens; null draws among all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the fewest likeliest tokens that together have this probability (nucleus sampling, Holtzman et al., 2020)."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Draw among tokens that have at least this fraction of the probability of the likeliest (Nguyen et al., 2024)."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """What the positive logits of tokens in the prompt and the text so far are divided by, and the negative multiplied (CTRL, Keskar et al., 2019); above 1
    discourages repetition."""
    beams: Count = 1
    """Texts that a beam search follows at a time; 1 is no search."""
    length_penalty: float = 0.7
    """A beam's log-probability is divided by its length to this power; larger favours longer texts. Without beams it has no effect."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens before which a text does not end."""
    max_new_tokens: Count | None = None
    """Tokens at most, the end of the text included; null goes on as far as the model's context."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random draws."""

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
