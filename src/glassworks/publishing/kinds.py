"""The kinds of model, by `model` in their config.json: what the card calls them, and the command that uses them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What a card says of every model of a kind."""

    title: str
    """Noun phrase with its article."""
    pipeline: str | None
    """Task on the Hugging Face hub, if it has a name for it."""
    command: str | None
    """Command that uses a model folder `{folder}`."""


KINDS = {
    "captioner": Kind("an image captioner", "image-to-text", "glassworks caption {folder} IMAGE"),
    "language_model": Kind("a language model", "text-generation", "glassworks generate {folder} TEXT"),
    "vision_language": Kind(
        "a vision-language model that answers questions about images",
        "image-text-to-text",
        "glassworks ask {folder} IMAGE QUESTION",
    ),
    "fused_decoder": Kind(
        "a language model that reads images and sounds", "any-to-any", "glassworks transcribe {folder} FILE"
    ),
    "alignment": Kind(
        "heads that map frozen encoders of several modalities into one space",
        "feature-extraction",
        "glassworks index {folder} DATASET\nglassworks retrieve {folder} --text TEXT",
    ),
    "recursive": Kind("a Tiny Recursive Model for puzzles", None, None),
}
OTHER = Kind("a model", None, None)


def kind_of(name: str) -> Kind:
    """The kind with this name; a model of the user's own code is of another kind."""
    return KINDS.get(name, OTHER)
