"""GPT-2, Llama, SmolLM3, Mistral, Qwen2, Qwen3 and Gemma 3 in transformers' layout, as our language model and back.

Pitfalls: GPT-2 stores matrices as [in, out], and its files on the hub store causal masks among the weights. With tied embeddings, a file has
no lm_head, or a copy of the embeddings. GPT-2's ln_2 is the norm before the feed-forward part. Gemma's norms store their weight less 1.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from glassworks.artifacts.digests import sha256_file
from glassworks.artifacts.manifest import MANIFEST
from glassworks.artifacts.model_files import CONFIG, read_hub_config
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import adapters, new_tokens, saving
from glassworks.models.language_model import KIND, LanguageModel
from glassworks.models.pretrained.hub_keys import HubKeys
from glassworks.models.pretrained.mapping import Piece, fused, join_all, layer, load, published, read_tensors
from glassworks.models.quantisation import Quantisation, layers_of
from glassworks.models.rotary import frequencies
from glassworks.models.settings.text_decoder import RopeScaling
from glassworks.models.settings.text_decoder import TextDecoder as Config

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu_tanh", "gelu_new": "geglu_tanh"}
PREFIXES = {"gpt2": "transformer."} | dict.fromkeys(
    ("llama", "qwen2", "qwen3", "smollm3", "mistral", "gemma3_text"), "model."
)
"""transformers' name prefix of the decoder by architecture. GPT-2's files on the hub omit it."""
THETA = {"smollm3": 2_000_000.0, "gemma3_text": 1_000_000.0}
"""Default base of the rotary angles, where it is not 10,000."""
HAS = {
    "attention_bias": ("llama", "qwen3", "smollm3", "gemma3_text"),
    "mlp_bias": ("llama", "smollm3"),
    "use_sliding_window": ("qwen2", "qwen3", "smollm3"),
    "sliding_window": ("qwen2", "qwen3", "smollm3", "mistral", "gemma3_text"),
    "layer_types": ("qwen2", "qwen3", "smollm3", "gemma3_text"),
}
"""Types that have a key; the others ignore it in transformers, so here it is refused unless it is off."""
BIASES = {(True, True): "all", (True, False): "attention", (False, True): "feed_forward", (False, False): "none"}
"""Our name by transformers' attention_bias and mlp_bias."""


def load_language_model(directory: Path, base: Path | None = None, merged: bool = True) -> LanguageModel:
    """The language model in a directory in transformers' layout or ours, in float32 and in the memory layout for decoding.

    An adapter is loaded onto its base, in the artefact `base`, or where `adapters.find_base` finds it, and `merged` into it. Raises `ArtifactError` listing
    missing, extra and misshapen tensors, or if the base is missing or another one, and `ConfigError` naming a setting that our decoder lacks.
    """
    hub = read_hub_config(directory)
    if (directory / adapters.CONFIG).is_file():
        return _load_adapted(directory, base or adapters.find_base(directory), merged)
    if hub.get("model") == KIND:
        return LanguageModel.load(directory)
    config, kind = decoder_config(hub, directory), hub["model_type"]
    with saving.without_weights():
        model = LanguageModel(config, hub["vocab_size"])
    tensors = _without_redundant(read_tensors(directory), kind, config, directory)
    load(model, _pieces(config, kind), tensors, directory, for_decoding=True)
    return model


def load_base(directory: Path, base: Path) -> LanguageModel:
    """The model in the artefact `base` with which the training of a model in `directory` began: for an adapter, in the precision in which training held it."""
    model = load_language_model(base)
    if (directory / adapters.CONFIG).is_file():
        record = adapters.read_base(directory)
        saving.round_weights(model, record.get("dtype", "fp32"), record.get("quantisation"))
        if (span := _new_tokens(directory)) is not None:
            new_tokens.attach(model, *span)
            new_tokens.merge(model)
    return model


def _new_tokens(directory: Path) -> tuple[int, int] | None:
    return new_tokens.span(adapters.read_config(directory), directory / adapters.CONFIG)


def _load_adapted(directory: Path, base: Path, merged: bool) -> LanguageModel:
    """The base with the adapter, or with the adapter merged into it. Base weights that training held in half precision or quantised are rounded as there."""
    config, vocabulary = saving.read_settings(directory, KIND, Config)
    model = load_language_model(base)
    span = _new_tokens(directory)
    if max(model.vocabulary, sum(span or ())) != vocabulary:
        raise ArtifactError(
            f"{directory}: an adapter of a vocabulary of {vocabulary:,}, but {base} has {model.vocabulary:,}"
        )
    model.config = model.decoder.config = config
    model.decoder.max_tokens = config.max_tokens
    load_adapter(model, directory, base, merged)
    return model


def load_adapter(model: nn.Module, directory: Path, base: Path, merged: bool = True) -> None:
    """Load the adapter in `directory` onto a model with the weights of the artefact `base`, rounded as in training, and merge it into them."""
    span, record = _new_tokens(directory), adapters.read_base(directory)
    dtype, quantisation = record.get("dtype", "fp32"), record.get("quantisation")
    quantised = set(layers_of(model)) if quantisation else set()
    if not merged:
        saving.round_weights(model, dtype, quantisation)
        adapters.load_adapter(model, directory, sha256_file(base / MANIFEST))
        return

    def rounding(name: str, weight: Tensor) -> Tensor:
        return saving.rounded(weight, dtype, quantisation if name in quantised else None)

    names = adapters.load_adapter(model, directory, sha256_file(base / MANIFEST))
    difference = adapters.merge(model, rounding if quantisation or dtype != "fp32" else None)
    names += new_tokens.layers(model) if span else []
    saving.round_weights(model, dtype, quantisation, {f"{name}.weight" for name in names})
    if quantisation:
        print(
            f"{directory}: merged onto {base.name} in {quantisation}, as in training; merged onto the original weights, a weight would differ by up to "
            f"{difference:.3g}",
            file=sys.stderr,
            flush=True,
        )


def read_decoder(directory: Path) -> tuple[Config, int]:
    """The decoder shape and the number of token embeddings of a language model in a directory. Reads no tensors."""
    config = read_hub_config(directory)
    if config.get("model") == KIND:
        return saving.read_settings(directory, KIND, Config)
    return decoder_config(config, directory), config["vocab_size"]


def read_plain_decoder(directory: Path) -> tuple[Config, int]:
    """As `read_decoder`, for a model that reads images. Raises `ConfigError` for a recursive decoder."""
    config, vocabulary = read_decoder(directory)
    if config.recursion:
        raise ConfigError(f"model.language_model: the decoder of {directory} is recursive; name one without recursion")
    return config, vocabulary


def check_language_model(directory: Path) -> int:
    """The number of token embeddings of a language model in a directory. Raises as `load_language_model`, in the memory of one tensor."""
    hub = read_hub_config(directory)
    if hub.get("model") == KIND:
        return LanguageModel.load(directory).vocabulary
    config, kind = decoder_config(hub, directory), hub["model_type"]
    with saving.without_weights():
        model = LanguageModel(config, hub["vocab_size"])
    tensors = _without_redundant(read_tensors(directory), kind, config, directory)
    for _ in join_all(model, _pieces(config, kind), tensors, directory):
        pass
    return model.vocabulary


def read_pieces(
    model: LanguageModel, directory: Path, dtype: torch.dtype, quantisation: Quantisation | None = None
) -> saving.Matches:
    """Fill a model on the meta device with a published model in transformers' layout, in `dtype` or quantised, one tensor at a time.

    Raises `ArtifactError` listing missing, extra and misshapen tensors.
    """
    kind, published = read_hub_config(directory)["model_type"], read_tensors(directory)
    tensors = _without_redundant(published, kind, model.config, directory)
    pieces = _pieces(model.config, kind)
    read = join_all(model, pieces, tensors, directory, torch.float32 if quantisation else dtype)
    saving.put_all(model, read, dtype, quantisation)
    left_over = [name for name in published if name.removeprefix(PREFIXES[kind]) not in tensors]
    return saving.Matches(str(directory), len(pieces), [], left_over)


def decoder_config(hub: Mapping[str, Any], where: Path | str = CONFIG) -> Config:
    """The shape of our decoder that computes the published model, from its config.json.

    Raises `ConfigError` naming a key whose value our decoder lacks, or that is not read.
    """
    kind = hub.get("model_type")
    if kind == "gemma3":
        raise ArtifactError(f"{where}: a model of type 'gemma3' sees images; the text models are of type 'gemma3_text'")
    if kind not in PREFIXES:
        raise ArtifactError(f"{where}: a model of type {kind!r}; language models are read of {', '.join(PREFIXES)}")
    keys = HubKeys(hub, where)
    keys.count("vocab_size")
    try:
        config = _gpt2(keys) if kind == "gpt2" else _llama(keys, kind)
    except ValidationError as error:
        raise ConfigError(f"{where}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    keys.finish()
    return config


def export_language_model(model: LanguageModel, directory: Path, **settings: Any) -> None:
    """Write a model in transformers' layout, as GPT-2, Llama or Qwen2; `settings` (such as eos_token_id) are added to config.json.

    Raises `ConfigError` when transformers has no architecture with this model's settings.
    """
    hub = hub_config(model.config, model.vocabulary)
    saving.save_published(published(model, published_pieces(hub, model.config)), directory, {**hub, **settings})


def published_pieces(hub: Mapping[str, Any], config: Config) -> list[Piece]:
    """The tensors of a model and the full names that transformers gives them. `hub` is config.json."""
    kind = hub["model_type"]
    return [
        replace(piece, theirs=tuple(PREFIXES[kind] * (not name.startswith("lm_head")) + name for name in piece.theirs))
        for piece in _pieces(config, kind)
    ]


def hub_config(config: Config, vocabulary: int) -> dict[str, Any]:
    """config.json of the transformers architecture that matches our settings."""
    if config.recursion:
        raise ConfigError("model.recursion: transformers has no recursive language model; only plain ones are exported")
    hub = _hub_gpt2(config) if config.position == "learned" else _hub_llama(config)
    hub = {"vocab_size": vocabulary, "tie_word_embeddings": config.tied, "dtype": "float32", **hub}
    try:
        same = _computed(decoder_config(hub)) == _computed(config)
    except (ArtifactError, ConfigError):
        same = False
    if not same:
        raise ConfigError(
            f"model: transformers has no architecture with position {config.position}, norm {config.norm}, feed_forward "
            f"{config.feed_forward}, biases {config.biases}{' and kv_heads' if config.kv_heads else ''}; exported are GPT-2 (learned, layer, gelu or "
            "gelu_tanh, all, no kv_heads), and with rotary, rms and a gated feed_forward: Llama, Qwen2 (biases qkv), Qwen3 (head_norms), "
            "SmolLM3 (unrotated_blocks), Mistral (window) and Gemma 3 (output_norms)"
        )
    return hub


def _computed(config: Config) -> dict[str, Any]:
    """What a configuration computes, whatever its wording; dropout is left out."""
    left_out = (
        {"dropout", "max_tokens", "rope_theta", *Config.LATER}
        if config.position == "rotary"
        else {"dropout", "rope_theta"}
    )
    return {
        **config.model_dump(exclude=left_out - {"output_norms", "head_norms", "scale_embeddings"}),
        "views": [config.view(block) for block in range(config.depth)],
        "kv_heads": config.kv_heads or config.heads,
        "feed_forward_width": config.inner_width,
        "size": config.size,
        "scale": config.attention_scale or config.size**-0.5,
    }


def _hub_gpt2(config: Config) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": config.width,
        "n_layer": config.depth,
        "n_head": config.heads,
        "n_positions": config.max_tokens,
        "n_inner": config.feed_forward_width,
        "activation_function": "gelu" if config.feed_forward == "gelu" else "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def _hub_llama(config: Config) -> dict[str, Any]:
    blocks = range(config.depth)
    windowed = [config.view(block).window is not None for block in blocks]
    attention_bias, mlp_bias = next((on for on, name in BIASES.items() if name == config.biases), (False, False))
    if config.output_norms:
        kind, name = "gemma3_text", "Gemma3ForCausalLM"
    elif config.head_norms:
        kind, name = "qwen3", "Qwen3ForCausalLM"
    elif config.biases == "qkv":
        kind, name = "qwen2", "Qwen2ForCausalLM"
    elif config.unrotated_blocks or (any(windowed) and not all(windowed)):
        kind, name = "smollm3", "SmolLM3ForCausalLM"
    elif all(windowed):
        kind, name = "mistral", "MistralForCausalLM"
    else:
        kind, name = "llama", "LlamaForCausalLM"
    activation = "silu" if config.feed_forward == "swiglu" else "gelu_pytorch_tanh"
    hub: dict[str, Any] = {
        "architectures": [name],
        "model_type": kind,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads or config.heads,
        "intermediate_size": config.inner_width,
        "max_position_embeddings": config.max_tokens,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "hidden_activation" if kind == "gemma3_text" else "hidden_act": activation,
    }
    if config.head_size or kind in ("qwen3", "gemma3_text"):
        hub["head_dim"] = config.size
    for key, on in (("attention_bias", attention_bias), ("mlp_bias", mlp_bias)):
        if on:
            hub[key] = True
    if config.rope_scaling is not None:
        hub["rope_scaling"] = _hub_scaling(config.rope_scaling)
    if any(windowed) or kind == "gemma3_text":
        if config.window is not None:
            hub["sliding_window"] = config.window
        if kind != "mistral":
            hub["layer_types"] = ["sliding_attention" if one else "full_attention" for one in windowed]
        if kind in HAS["use_sliding_window"]:
            hub["use_sliding_window"] = True
    if kind == "smollm3":
        hub["no_rope_layers"] = [int(block not in config.unrotated_blocks) for block in blocks]
    if kind == "gemma3_text":
        hub["rope_local_base_freq"] = config.window_rope_theta or config.rope_theta
        scalar = config.size if config.attention_scale is None else config.attention_scale**-2
        hub["query_pre_attn_scalar"] = round(scalar) if math.isclose(round(scalar), scalar) else scalar
    return hub


def _hub_scaling(scaling: RopeScaling) -> dict[str, Any]:
    """rope_scaling of config.json."""
    low, high = ("low_freq_factor", "high_freq_factor") if scaling.kind == "llama3" else ("beta_slow", "beta_fast")
    hub: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        hub |= {low: scaling.low, high: scaling.high, "original_max_position_embeddings": scaling.original_max_tokens}
    if scaling.kind == "yarn":
        hub |= {"attention_factor": scaling.attention_factor, "truncate": scaling.truncate}
    return hub


def _gpt2(keys: HubKeys) -> Config:
    activation = keys.only("activation_function", *ACTIVATIONS)
    keys.only("scale_attn_weights", True)
    keys.only("scale_attn_by_inverse_layer_idx", False)
    return Config(
        width=keys.count("n_embd"),
        depth=keys.count("n_layer"),
        heads=keys.count("n_head"),
        max_tokens=keys.count("n_positions", 1024),
        norm_eps=keys.number("layer_norm_epsilon", 1e-5),
        feed_forward=ACTIVATIONS[activation],
        feed_forward_width=keys.get("n_inner"),
        tied=keys.flag("tie_word_embeddings", True),
        dropout=keys.get("resid_pdrop", 0.1),
    )


def _llama(keys: HubKeys, kind: str) -> Config:
    width, depth, heads = (keys.count(name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    kv_heads = keys.get("num_key_value_heads") if kind == "llama" else keys.count("num_key_value_heads")
    size = keys.get("head_dim") or {"qwen3": 128, "gemma3_text": 256}.get(kind, width // heads)
    on = {
        name: keys.flag(name, False) if kind in HAS[name] else keys.only(name, False, None)
        for name in ("attention_bias", "mlp_bias")
    }
    gemma = kind == "gemma3_text"
    activation = (
        keys.only("hidden_activation", "gelu_pytorch_tanh", *GATED) if gemma else keys.only("hidden_act", *GATED)
    )
    windows = _windows(keys, kind, depth)
    special: dict[str, Any] = {}
    if gemma:
        for name in ("final_logit_softcapping", "attn_logit_softcapping"):
            keys.only(name, None)
        keys.only("use_bidirectional_attention", False, None)
        scalar = keys.number("query_pre_attn_scalar", 256)
        special = {
            "output_norms": True,
            "scale_embeddings": True,
            "attention_scale": None if scalar == size else scalar**-0.5,
        }
    if kind == "smollm3":
        special["unrotated_blocks"] = _unrotated(keys, depth)
    return Config(
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=None if kv_heads in (None, heads) else kv_heads,
        head_size=None if size * heads == width else size,
        max_tokens=keys.count("max_position_embeddings"),
        position="rotary",
        norm="rms",
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        head_norms=kind in ("qwen3", "gemma3_text"),
        feed_forward=GATED[activation],
        feed_forward_width=keys.count("intermediate_size"),
        biases="qkv" if kind == "qwen2" else BIASES[bool(on["attention_bias"]), bool(on["mlp_bias"])],
        tied=keys.flag("tie_word_embeddings", kind in ("smollm3", "gemma3_text")),
        **_ropes(keys, kind),
        **windows,
        **special,
    )


def _windows(keys: HubKeys, kind: str, depth: int) -> dict[str, Any]:
    """The window, and the blocks that have it."""
    gemma = kind == "gemma3_text"
    if kind not in HAS["sliding_window"]:
        keys.only("sliding_window", None)
        keys.only("use_sliding_window", False, None)
        keys.only("layer_types", None, ["full_attention"] * depth)
        return {}
    default = 4096 if kind != "smollm3" else None
    window = keys.get("sliding_window", default)
    if window is not None:
        keys.count("sliding_window", default or window)
    if kind == "mistral":
        keys.only("use_sliding_window", None)
        keys.only("layer_types", None)
        return {"window": window}
    used = True if gemma else keys.flag("use_sliding_window", False)
    types = keys.get("layer_types")
    if types is None:
        types = _default_types(keys, kind, depth, used and window is not None)
    else:
        for name in ("sliding_window_pattern", "max_window_layers", "no_rope_layer_interval"):
            keys.read.add(name)  # read only where layer_types is missing
    if not isinstance(types, list) or len(types) != depth:
        raise keys.refusal("layer_types", types, f"one type for each of its {depth} layers")
    for one in types:
        keys.one_of("layer_types", one, ("full_attention", "sliding_attention"))
    blocks = [block for block, one in enumerate(types) if one == "sliding_attention"]
    if not blocks:
        return {}
    if window is None or (kind in ("qwen2", "qwen3") and not used):
        raise keys.refusal("layer_types", types, "sliding_attention only with a sliding_window that is used")
    return {"window": window, "windowed_blocks": None if len(blocks) == depth else blocks}


def _default_types(keys: HubKeys, kind: str, depth: int, windowed: bool) -> list[str]:
    """layer_types where the configuration has none."""
    if kind == "gemma3_text":
        pattern = keys.get("sliding_window_pattern", keys.get("_sliding_window_pattern", 6))
        keys.count("sliding_window_pattern", pattern)
        chosen = [bool((block + 1) % pattern) for block in range(depth)]
    elif kind == "smollm3":
        unrotated = _unrotated(keys, depth)
        chosen = [windowed and block in unrotated for block in range(depth)]
    else:
        first = keys.get("max_window_layers", 28)
        chosen = [windowed and block >= first for block in range(depth)]
    return ["sliding_attention" if one else "full_attention" for one in chosen]


def _unrotated(keys: HubKeys, depth: int) -> list[int]:
    """SmolLM3's blocks without rotary positions."""
    interval, rotated = keys.count("no_rope_layer_interval", 4), keys.get("no_rope_layers")
    if rotated is None:
        rotated = [(block + 1) % interval != 0 for block in range(depth)]
    if not isinstance(rotated, list) or len(rotated) != depth or any(one not in (0, 1) for one in rotated):
        raise keys.refusal("no_rope_layers", rotated, f"0 or 1 for each of its {depth} layers")
    return [block for block, one in enumerate(rotated) if not one]


def _ropes(keys: HubKeys, kind: str) -> dict[str, Any]:
    """Base and scaling of the rotary positions: the older keys rope_theta and rope_scaling, or rope_parameters."""
    name = "rope_scaling" if keys.get("rope_scaling") else "rope_parameters"
    given, theta = keys.get(name) or {}, keys.get("rope_theta")
    keys.read.update({"rope_scaling", "rope_parameters"})
    maximum = keys.get("max_position_embeddings")
    keys.only("partial_rotary_factor", 1.0, None, 1)
    if not isinstance(given, dict):
        raise keys.refusal(name, given, "a mapping")
    original = keys.get("original_max_position_embeddings")
    default = THETA.get(kind, 10_000.0) if theta is None else theta
    if kind != "gemma3_text":
        rope = HubKeys(given, keys.where, f"{name}.")
        return dict(zip(("rope_theta", "rope_scaling"), _rope(rope, default, maximum, original), strict=True))
    local = keys.get("rope_local_base_freq", 10_000.0)
    nested = name == "rope_parameters" and any(one in given for one in ("full_attention", "sliding_attention"))
    parts = {"full_attention": given, "sliding_attention": {}} if not nested else given
    for one in parts:
        if one not in ("full_attention", "sliding_attention"):
            raise keys.refusal(f"{name}.{one}", given[one], "full_attention and sliding_attention")
    if given and not nested and name == "rope_parameters":
        raise keys.refusal(name, given, "full_attention and sliding_attention inside it")
    ropes = [
        _rope(HubKeys(parts.get(one) or {}, keys.where, f"{name}.{one}."), base, maximum, original)
        for one, base in (("full_attention", default), ("sliding_attention", local))
    ]
    if ropes[1][1] is not None:
        raise keys.refusal(f"{name}.sliding_attention.rope_type", ropes[1][1].kind, "'default'")
    return {"rope_theta": ropes[0][0], "rope_scaling": ropes[0][1], "window_rope_theta": ropes[1][0]}


def _rope(rope: HubKeys, theta: float, maximum: int, original: int | None) -> tuple[float, RopeScaling | None]:
    """Base and scaling from one mapping of rope parameters. `maximum` and `original` are top-level keys of the configuration."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    rope.read.add("type")
    rope.one_of("rope_type", kind, ("default", "linear", "llama3", "yarn"))
    rope.only("partial_rotary_factor", 1.0, None, 1)
    theta = rope.number("rope_theta", theta)
    scaling = None
    if kind == "linear":
        scaling = RopeScaling(kind="linear", factor=rope.number("factor"))
    elif kind != "default":
        length = original or rope.get("original_max_position_embeddings", maximum)
        rope.count("original_max_position_embeddings", length)
        if kind == "llama3":
            scaling = RopeScaling(
                kind="llama3",
                factor=rope.number("factor"),
                low=rope.number("low_freq_factor"),
                high=rope.number("high_freq_factor"),
                original_max_tokens=length,
            )
        else:
            factor = maximum / length if rope.get("factor") is None else rope.number("factor")
            scaling = RopeScaling(
                kind="yarn",
                factor=factor,
                low=rope.get("beta_slow") or 1.0,
                high=rope.get("beta_fast") or 32.0,
                truncate=rope.flag("truncate", True),
                attention_factor=_attention_factor(rope, factor),
                original_max_tokens=length,
            )
    rope.read.add("original_max_position_embeddings")
    rope.finish()
    return theta, scaling


def _attention_factor(rope: HubKeys, factor: float) -> float:
    """yarn's factor of rotated queries and keys."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    above, below = rope.get("mscale"), rope.get("mscale_all_dim")
    if rope.get("attention_factor") is not None:
        return rope.number("attention_factor")
    return scale(above) / scale(below) if above and below else scale(1.0)


def _without_redundant(
    tensors: Mapping[str, Tensor], kind: str, config: Config, where: Path | str
) -> dict[str, Tensor]:
    """The weights by their names inside the decoder, without constants and copies. Raises `ArtifactError` for a copy that differs."""
    named = {name.removeprefix(PREFIXES[kind]): tensor for name, tensor in tensors.items()}
    embedding = named.get("wte.weight" if kind == "gpt2" else "embed_tokens.weight")
    kept = {}
    for name, tensor in named.items():
        if config.tied and name == "lm_head.weight" and embedding is not None:
            redundant = tensor.shape == embedding.shape and torch.equal(tensor, embedding)
            remedy = "tie_word_embeddings is true, but this matrix is not the token embedding; set it to false in config.json"
        elif kind == "gpt2" and name.endswith(".attn.bias"):
            redundant = tensor.ndim == 4 and torch.equal(
                tensor.bool(), torch.ones_like(tensor, dtype=torch.bool).tril()
            )
            remedy = "not a causal mask"
        elif kind == "gpt2" and name.endswith(".attn.masked_bias"):
            redundant, remedy = tensor.numel() == 1 and float(tensor) <= -1e4, "not a bias that masks"
        elif name.endswith("rotary_emb.inv_freq"):
            expected = frequencies(config.size, config.rope_theta, config.rope_scaling)
            redundant = tensor.shape == expected.shape and torch.allclose(tensor.float(), expected, rtol=1e-2)
            remedy = "not the frequencies of rope_theta and rope_scaling"
        else:
            kept[name] = tensor
            continue
        if not redundant:
            raise ArtifactError(f"{where}: {name}: {remedy}")
    return kept


def _pieces(config: Config, kind: str) -> list[Piece]:
    head = [] if config.tied else layer("decoder.head", "lm_head", ("weight",))
    return (_gpt2_pieces(config) if kind == "gpt2" else _llama_pieces(config, kind)) + head


def _gpt2_pieces(config: Config) -> list[Piece]:
    pieces = [
        *layer("decoder.tokens", "wte", ("weight",)),
        *layer("decoder.positions", "wpe", ("weight",)),
        *layer("decoder.norm", "ln_f"),
    ]
    for index in range(config.depth):
        ours, theirs = f"decoder.blocks.{index}", f"h.{index}"
        pieces += [
            *layer(f"{ours}.attention_norm", f"{theirs}.ln_1"),
            *layer(f"{ours}.attention.qkv", f"{theirs}.attn.c_attn", transposed=True),
            *layer(f"{ours}.attention.out", f"{theirs}.attn.c_proj", transposed=True),
            *layer(f"{ours}.feed_forward_norm", f"{theirs}.ln_2"),
            *layer(f"{ours}.feed_forward.inner", f"{theirs}.mlp.c_fc", transposed=True),
            *layer(f"{ours}.feed_forward.out", f"{theirs}.mlp.c_proj", transposed=True),
        ]
    return pieces


def _llama_pieces(config: Config, kind: str) -> list[Piece]:
    kv_width = config.size * (config.kv_heads or config.heads)
    inputs, outputs, inner = (
        ("weight", "bias") if config.biases in kinds else ("weight",)
        for kinds in (("all", "qkv", "attention"), ("all", "attention"), ("all", "feed_forward"))
    )
    shift = 1.0 if kind == "gemma3_text" else 0.0
    norms = {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
    if config.output_norms:
        norms |= {
            "attention_output_norm": "post_attention_layernorm",
            "feed_forward_norm": "pre_feedforward_layernorm",
            "feed_forward_output_norm": "post_feedforward_layernorm",
        }
    if config.head_norms:
        norms |= {"attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm"}
    pieces = [
        *layer("decoder.tokens", "embed_tokens", ("weight",)),
        *layer("decoder.norm", "norm", ("weight",), shift=shift),
    ]
    for index in range(config.depth):
        ours, theirs = f"decoder.blocks.{index}", f"layers.{index}"
        qkv, gated = (
            [f"{theirs}.self_attn.{name}_proj" for name in "qkv"],
            [f"{theirs}.mlp.{name}_proj" for name in ("gate", "up")],
        )
        for name, norm in norms.items():
            pieces += layer(f"{ours}.{name}", f"{theirs}.{norm}", ("weight",), shift=shift)
        pieces += [
            *fused(f"{ours}.attention.qkv", qkv, (config.size * config.heads, kv_width, kv_width), inputs),
            *layer(f"{ours}.attention.out", f"{theirs}.self_attn.o_proj", outputs),
            *fused(f"{ours}.feed_forward.inner", gated, (config.inner_width,) * 2, inner),
            *layer(f"{ours}.feed_forward.out", f"{theirs}.mlp.down_proj", inner),
        ]
    return pieces
