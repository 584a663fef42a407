"""GPT-2, Llama (SmolLM2) and Qwen2.5 in transformers' layout, as our language model and back.

Pitfalls: GPT-2 stores matrices as [in, out], and its files on the hub store causal masks among the weights. With tied embeddings, a file has
no lm_head, or one to ignore. GPT-2's ln_2 is the norm before the feed-forward part.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glassworks.artifacts.digests import sha256_file
from glassworks.artifacts.manifest import MANIFEST
from glassworks.artifacts.model_files import CONFIG, read_hub_config
from glassworks.errors import ArtifactError, ConfigError
from glassworks.models import adapters, saving
from glassworks.models.language_model import KIND, LanguageModel
from glassworks.models.pretrained.mapping import Piece, fused, join_all, layer, load, published, read_tensors
from glassworks.models.settings.text_decoder import TextDecoder as Config

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
PREFIXES = {"gpt2": "transformer.", "llama": "model.", "qwen2": "model."}
"""transformers' name prefix of the decoder by architecture. GPT-2's files on the hub omit it."""
BUFFERS = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")
"""Name suffixes of constants, which are not weights."""


def load_language_model(directory: Path, base: Path | None = None) -> LanguageModel:
    """The language model in a directory in transformers' layout or ours, in float32 and in the memory layout for decoding.

    An adapter is merged into its base, in the artefact `base`, or where `adapters.find_base` finds it. Raises `ArtifactError` listing missing, extra and
    misshapen tensors, or if the base is missing or another one, and `ConfigError` naming a setting that our decoder lacks.
    """
    hub = read_hub_config(directory)
    if (directory / adapters.CONFIG).is_file():
        return _load_adapted(directory, base or adapters.find_base(directory))
    if hub.get("model") == KIND:
        return LanguageModel.load(directory)
    config, kind = decoder_config(hub, directory), hub["model_type"]
    with saving.without_weights():
        model = LanguageModel(config, hub["vocab_size"])
    tensors = _without_prefix(read_tensors(directory), kind, config.tied)
    load(model, _pieces(config, kind), tensors, directory, for_decoding=True)
    return model


def _load_adapted(directory: Path, base: Path) -> LanguageModel:
    """The base with the adapter merged into it. Base weights that training held in half precision are rounded as there."""
    config, vocabulary = saving.read_settings(directory, KIND, Config)
    model = load_language_model(base)
    if model.vocabulary != vocabulary:
        raise ArtifactError(
            f"{directory}: an adapter of a vocabulary of {vocabulary:,}, but {base} has {model.vocabulary:,}"
        )
    if (dtype := adapters.read_base(directory).get("dtype")) is not None:
        saving.round_weights(model, dtype)
    model.config = model.decoder.config = config
    model.decoder.max_tokens = config.max_tokens
    adapters.load_adapter(model, directory, sha256_file(base / MANIFEST))
    adapters.merge(model)
    return model


def read_decoder(directory: Path) -> tuple[Config, int]:
    """The decoder shape and the number of token embeddings of a language model in a directory. Reads no tensors."""
    config = read_hub_config(directory)
    if config.get("model") == KIND:
        return saving.read_settings(directory, KIND, Config)
    return decoder_config(config, directory), config["vocab_size"]


def read_pieces(model: LanguageModel, directory: Path, dtype: torch.dtype) -> saving.Matches:
    """Fill a model on the meta device with a published model in transformers' layout, in `dtype`, one tensor at a time.

    Raises `ArtifactError` listing missing, extra and misshapen tensors.
    """
    kind, published = read_hub_config(directory)["model_type"], read_tensors(directory)
    tensors = _without_prefix(published, kind, model.config.tied)
    pieces = _pieces(model.config, kind)
    for name, tensor in join_all(model, pieces, tensors, directory, dtype):
        saving.put(model, name, tensor, dtype)
    left_over = [name for name in published if name.removeprefix(PREFIXES[kind]) not in tensors]
    return saving.Matches(str(directory), len(pieces), [], left_over)


def decoder_config(hub: Mapping[str, Any], where: Path | str = CONFIG) -> Config:
    """The shape of our decoder that computes the published model, from its config.json."""
    kind = hub.get("model_type")
    if kind not in PREFIXES:
        raise ArtifactError(f"{where}: a model of type {kind!r}; language models are read of {', '.join(PREFIXES)}")
    try:
        return _gpt2(hub, where) if kind == "gpt2" else _llama(hub, where)
    except KeyError as error:
        raise ArtifactError(f"{where}: the configuration of a {kind} model without {error}") from None


def export_language_model(model: LanguageModel, directory: Path, **settings: Any) -> None:
    """Write a model in transformers' layout, as GPT-2, Llama or Qwen2; `settings` (such as eos_token_id) are added to config.json.

    Raises `ConfigError` when transformers has no architecture with this model's settings.
    """
    hub = hub_config(model.config, model.vocabulary)
    kind = hub["model_type"]
    tensors = published(model, _pieces(model.config, kind))
    named = {name if name.startswith("lm_head") else PREFIXES[kind] + name: tensor for name, tensor in tensors.items()}
    saving.save_published(named, directory, {**hub, **settings})


def hub_config(config: Config, vocabulary: int) -> dict[str, Any]:
    """config.json of the transformers architecture that matches our settings."""
    form = (config.position, config.norm, config.feed_forward, config.biases)
    common = {"vocab_size": vocabulary, "tie_word_embeddings": config.tied, "dtype": "float32"}
    if form in (("learned", "layer", "gelu", "all"), ("learned", "layer", "gelu_tanh", "all")) and not config.kv_heads:
        return {
            **common,
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
    if form[:3] == ("rotary", "rms", "swiglu") and config.biases != "all":
        kind, name = ("llama", "LlamaForCausalLM") if config.biases == "none" else ("qwen2", "Qwen2ForCausalLM")
        return {
            **common,
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
            "hidden_act": "silu",
        }
    raise ConfigError(
        f"model: transformers has no architecture with position {config.position}, norm {config.norm}, feed_forward "
        f"{config.feed_forward}, biases {config.biases}{' and kv_heads' if config.kv_heads else ''}; exported are GPT-2 (learned, layer, gelu or "
        f"gelu_tanh, all, no kv_heads), Llama (rotary, rms, swiglu, none) and Qwen2 (rotary, rms, swiglu, qkv)"
    )


def _gpt2(hub: Mapping[str, Any], where: Path | str) -> Config:
    activation = hub.get("activation_function", "gelu_new")
    _refuse(where, "activation_function", activation, list(ACTIVATIONS))
    for name, only in {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}.items():
        _refuse(where, name, hub.get(name, only), [only])
    return Config(
        width=hub["n_embd"],
        depth=hub["n_layer"],
        heads=hub["n_head"],
        max_tokens=hub.get("n_positions", 1024),
        norm_eps=hub.get("layer_norm_epsilon", 1e-5),
        feed_forward=ACTIVATIONS[activation],
        feed_forward_width=hub.get("n_inner"),
        tied=hub.get("tie_word_embeddings", True),
        dropout=hub.get("resid_pdrop", 0.1),
    )


def _llama(hub: Mapping[str, Any], where: Path | str) -> Config:
    rope = hub.get("rope_parameters") or hub.get("rope_scaling") or {}
    size = hub["hidden_size"] // hub["num_attention_heads"]
    only = {
        "hidden_act": (hub.get("hidden_act", "silu"), "silu"),
        "attention_bias": (hub.get("attention_bias", False), False),
        "mlp_bias": (hub.get("mlp_bias", False), False),
        "use_sliding_window": (hub.get("use_sliding_window", False), False),
        "rope_parameters.rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "head_dim": (hub.get("head_dim") or size, size),
    }
    for name, (given, known) in only.items():
        _refuse(where, name, given, [known])
    heads, kv_heads = hub["num_attention_heads"], hub.get("num_key_value_heads") or hub["num_attention_heads"]
    return Config(
        width=hub["hidden_size"],
        depth=hub["num_hidden_layers"],
        heads=heads,
        kv_heads=None if kv_heads == heads else kv_heads,
        max_tokens=hub["max_position_embeddings"],
        position="rotary",
        rope_theta=float(rope.get("rope_theta") or hub.get("rope_theta") or 10_000.0),
        norm="rms",
        norm_eps=hub.get("rms_norm_eps", 1e-6),
        feed_forward="swiglu",
        feed_forward_width=hub["intermediate_size"],
        biases="qkv" if hub["model_type"] == "qwen2" else "none",
        tied=hub.get("tie_word_embeddings", False),
    )


def _refuse(where: Path | str, name: str, given: Any, known: list[Any]) -> None:
    if given not in known:
        allowed = " or ".join(map(repr, known))
        raise ConfigError(f"{where}: {name} is {given!r}, which our decoder does not have (it has {allowed})")


def _without_prefix(tensors: Mapping[str, Tensor], kind: str, tied: bool) -> dict[str, Tensor]:
    """The weights by their names inside the decoder, without constants and without the output matrix of a tied model."""
    return {
        name.removeprefix(PREFIXES[kind]): tensor
        for name, tensor in tensors.items()
        if not name.endswith(BUFFERS) and not (tied and name == "lm_head.weight")
    }


def _pieces(config: Config, kind: str) -> list[Piece]:
    head = [] if config.tied else layer("decoder.head", "lm_head", ("weight",))
    return (_gpt2_pieces(config) if kind == "gpt2" else _llama_pieces(config)) + head


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


def _llama_pieces(config: Config) -> list[Piece]:
    kv_width = config.width // config.heads * (config.kv_heads or config.heads)
    inputs = ("weight", "bias") if config.biases == "qkv" else ("weight",)
    pieces = [*layer("decoder.tokens", "embed_tokens", ("weight",)), *layer("decoder.norm", "norm", ("weight",))]
    for index in range(config.depth):
        ours, theirs = f"decoder.blocks.{index}", f"layers.{index}"
        qkv, gated = (
            [f"{theirs}.self_attn.{name}_proj" for name in "qkv"],
            [f"{theirs}.mlp.{name}_proj" for name in ("gate", "up")],
        )
        pieces += [
            *layer(f"{ours}.attention_norm", f"{theirs}.input_layernorm", ("weight",)),
            *fused(f"{ours}.attention.qkv", qkv, (config.width, kv_width, kv_width), inputs),
            *layer(f"{ours}.attention.out", f"{theirs}.self_attn.o_proj", ("weight",)),
            *layer(f"{ours}.feed_forward_norm", f"{theirs}.post_attention_layernorm", ("weight",)),
            *fused(f"{ours}.feed_forward.inner", gated, (config.inner_width,) * 2, ("weight",)),
            *layer(f"{ours}.feed_forward.out", f"{theirs}.mlp.down_proj", ("weight",)),
        ]
    return pieces
