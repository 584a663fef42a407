"""A fused decoder that begins with a language model, and one that is loaded as an adapter of it."""

from pathlib import Path

from glassworks.models import adapters, saving
from glassworks.models.fused_decoder import KIND, FusedDecoder, is_of_base
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.begin_language_model import begin_language_model
from glassworks.models.pretrained.language_models import load_adapter, load_language_model
from glassworks.models.quantisation import Quantisation
from glassworks.models.saving import Matches
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.fusion import FusedDecoder as Config


def begin_fused_decoder(
    model: FusedDecoder,
    base: Path,
    seed: int,
    adapter: Adapter | None,
    dtype: str,
    quantisation: Quantisation | None,
) -> Matches:
    """Replace the decoder, which is on the meta device, by the language model in `base` with a new `adapter`; the fusion keeps its random weights.

    Raises as `begin_language_model`.
    """
    with saving.without_weights():
        language_model = LanguageModel(model.config.text, model.vocabulary)
    matches = begin_language_model(language_model, base, seed, adapter, None, saving.DTYPES[dtype], quantisation)
    model.replace_decoder(language_model.decoder)
    return matches._replace(new=[*matches.new, *(name for name in model.state_dict() if not is_of_base(name))])


def load_fused_decoder(directory: Path, base: Path | None = None) -> FusedDecoder:
    """The model that `FusedDecoder.save` wrote. An adapter is merged into its `base`, or into that which `adapters.find_base` finds.

    Raises `ArtifactError` listing missing, extra and misshapen tensors, or if the base is missing or another one.
    """
    if not (directory / adapters.CONFIG).is_file():
        return FusedDecoder.load(directory)
    config, vocabulary = saving.read_settings(directory, KIND, Config)
    towers = saving.read_config(directory, "a saved fused decoder")["towers"]
    base = base or adapters.find_base(directory)
    language_model = load_language_model(base)
    load_adapter(language_model, directory, base)
    with saving.without_weights():
        model = FusedDecoder(config, vocabulary, towers, language_model.decoder)
    file = directory / saving.WEIGHTS
    tensors = saving.read_tensors(file)
    saving.check({n: tensor.shape for n, tensor in model.state_dict().items() if not is_of_base(n)}, tensors, file)
    model.load_state_dict(tensors, assign=True, strict=False)
    return model
