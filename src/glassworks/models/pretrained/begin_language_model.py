"""A language model initialised from published weights or a trained model, with a new or a saved adapter, and its base in bf16 or quantised."""

from pathlib import Path

import torch

from glassworks.artifacts.digests import sha256_file
from glassworks.artifacts.manifest import MANIFEST
from glassworks.artifacts.model_files import read_hub_config
from glassworks.models import adapters, saving
from glassworks.models.language_model import KIND, LanguageModel
from glassworks.models.pretrained.language_models import read_pieces
from glassworks.models.quantisation import Quantisation
from glassworks.models.saving import Matches
from glassworks.models.settings.adapter import Adapter


def begin_language_model(
    model: LanguageModel,
    base: Path,
    seed: int,
    adapter: Adapter | None = None,
    saved: Path | None = None,
    dtype: torch.dtype = torch.float32,
    quantisation: Quantisation | None = None,
) -> Matches:
    """Fill a model on the meta device with the weights in `base`, in `dtype`, and attach the adapter in `saved` or a new `adapter`.

    With `quantisation`, the linear layers of the blocks are quantised, each from the weight in `base`. Its full precision is freed before the next one.

    `base` is in our layout or that of transformers. Raises `ArtifactError` listing missing, extra and misshapen tensors, and `ConfigError` for targets
    of the adapter that the model lacks.
    """
    if read_hub_config(base).get("model") == KIND:
        matches = saving.fill(
            model, saving.read_tensors(base / saving.WEIGHTS), base / saving.WEIGHTS, dtype, quantisation
        )
    else:
        matches = read_pieces(model, base, dtype, quantisation)
    if saved is not None:
        adapters.load_adapter(model, saved, sha256_file(base / MANIFEST))
        return matches._replace(
            source=f"{matches.source} and {saved}", matched=matches.matched + len(adapters.adapter_tensors(model))
        )
    if adapter is not None:
        adapters.attach(model, adapter, seed)
        return matches._replace(new=list(adapters.adapter_tensors(model)))
    return matches
