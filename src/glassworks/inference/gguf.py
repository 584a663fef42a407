"""A language model as GGUF, the format of llama.cpp, with its tokenizer, chat template and end tokens. Needs the extra `gguf`.

llama.cpp rotates neighbouring dimensions of queries and keys in Llama's architecture, so their rows are reordered; in Qwen's it rotates halves, as here.
Norms and biases are float32 in every file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glassworks.errors import ConfigError
from glassworks.inference.language_models import Opened, stop_token
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.language_models import hub_config, published_pieces
from glassworks.models.pretrained.mapping import published
from glassworks.models.settings.text_decoder import TextDecoder as Config

Precision = Literal["f16", "f32", "q8_0"]
ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Architectures that are written, under the names that transformers and llama.cpp share."""
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""llama.cpp's names of the modules of transformers, those of a layer without its number."""
BLOCK = 32
"""Weights per scale of Q8_0."""
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {QWEN2: "qwen2", QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|"): "llama-bpe"}
"""llama.cpp's names of the regular expressions of Qwen2 and of Llama 3."""


def write_gguf(opened: Opened, file: Path, precision: Precision) -> str:
    """Write a model without an adapter to a GGUF file; returns its architecture.

    Matrices are float16, float32 or Q8_0. Raises `ConfigError` for a model or a tokenizer that llama.cpp has no form for.
    """
    try:
        import gguf
    except ImportError:
        raise ConfigError(
            "--format gguf needs the package gguf; install it with the extra: pip install 'glassworks[gguf]'"
        ) from None
    model = opened.model
    hub = hub_config(model.config, model.vocabulary)
    architecture = str(hub["model_type"])
    refused = [name for name in ("rope_scaling", "sliding_window") if hub.get(name)]
    if architecture not in ARCHITECTURES or refused:
        raise ConfigError(
            f"--format gguf: a model with {refused[0] if refused else architecture}; written are {', '.join(ARCHITECTURES)} without rope_scaling "
            "and windows; export with --format transformers, and convert that folder with llama.cpp"
        )
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name(file.stem)
    _add_shape(writer, model.config, hub)
    types = gguf.LlamaFileType
    writer.add_file_type({"f32": types.ALL_F32, "f16": types.MOSTLY_F16, "q8_0": types.MOSTLY_Q8_0}[precision])
    if precision == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, opened)
    for name, tensor in _tensors(model, hub):
        if tensor.ndim == 1 or precision == "f32":
            writer.add_tensor(name, tensor)
        elif precision == "q8_0" and tensor.shape[1] % BLOCK == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            if np.abs(tensor).max() > np.finfo(np.float16).max:
                raise ConfigError(f"--gguf-type {precision}: {name} has values beyond float16; use --gguf-type f32")
            writer.add_tensor(name, tensor.astype(np.float16))
    file.parent.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return architecture


def _add_shape(writer: Any, config: Config, hub: dict[str, Any]) -> None:
    writer.add_vocab_size(hub["vocab_size"])
    writer.add_context_length(config.max_tokens)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.depth)
    writer.add_feed_forward_length(config.inner_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads or config.heads)
    writer.add_key_length(config.size)
    writer.add_value_length(config.size)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.size)


def _tensors(model: LanguageModel, hub: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """All tensors under llama.cpp's names, in float32."""
    config = model.config
    heads = {"self_attn.q_proj": config.heads, "self_attn.k_proj": config.kv_heads or config.heads}
    for name, tensor in published(model, published_pieces(hub, config)).items():
        module, _, part = name.rpartition(".")
        prefix = ""
        if module.startswith("model.layers."):
            _, _, number, module = module.split(".", 3)
            prefix = f"blk.{number}."
        value = tensor.detach().float().numpy()
        if module in heads and hub["model_type"] == "llama":
            value = _neighbours(value, heads[module])
        yield f"{prefix}{NAMES[module]}.{part}", value


def _neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a matrix or a bias with the two halves of a head interleaved."""
    return np.ascontiguousarray(rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape))


def _add_tokenizer(writer: Any, opened: Opened) -> None:
    """Tokens with their types, merges, end tokens and chat template. Raises `ConfigError` for what llama.cpp has no form for."""
    tokenizer, content = opened.tokenizer, opened.tokenizer.definition
    pre, merges = _pre_tokenizer(content), content["model"].get("merges")
    if pre is None:
        raise ConfigError(
            f"{tokenizer.directory}: --format gguf: no byte-level BPE tokenizer that cuts texts as GPT-2, SmolLM2, Qwen2 or Llama 3 does"
        )
    tokens, types = _tokens(content, opened.model.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos)
    writer.add_eos_token_id(tokenizer.eos)
    writer.add_pad_token_id(tokenizer.pad)
    ends = [token for token in opened.ends if token != tokenizer.eos]
    stop = stop_token(opened.template)
    if stop is not None:
        ends = [stop, *(token for token in ends if token != stop)]
    if len(ends) > 2:
        raise ConfigError(
            f"{tokenizer.directory}: --format gguf: a text ends at {len(opened.ends)} tokens, and GGUF has room for three (EOS, end of turn, end of "
            "message); leave some out of generation_config.json"
        )
    for add, token in zip((writer.add_eot_token_id, writer.add_eom_token_id), ends, strict=False):
        add(token)
    writer.add_add_bos_token(opened.adds_bos)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if opened.template is not None:
        writer.add_chat_template(opened.template.source)


def _tokens(content: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """The name and llama.cpp's type of every token embedding."""
    from gguf import TokenType

    added = {token["id"]: token for token in content["added_tokens"]}
    names = {number: name for name, number in content["model"]["vocab"].items()}
    names |= {number: token["content"] for number, token in added.items()}
    tokens = [names.get(number, f"[PAD{number}]") for number in range(size)]
    types = [TokenType.NORMAL if number in names else TokenType.UNUSED for number in range(size)]
    for number, token in added.items():
        if number < size:
            types[number] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    return tokens, types


def _pre_tokenizer(content: dict[str, Any]) -> str | None:
    """llama.cpp's name of how a tokenizer cuts texts; None if it has no such way."""
    model, found = content["model"], content.get("pre_tokenizer") or {}
    parts = [dict(part) for part in found.get("pretokenizers", [found])]
    normalizer = (content.get("normalizer") or {"type": "NFC"})["type"]
    if model["type"] != "BPE" or model.get("byte_fallback") or normalizer != "NFC" or not parts:
        return None
    *cuts, last = parts
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    pre: str | None = None
    if last["use_regex"]:
        pre = "gpt-2" if not cuts else "smollm" if cuts == [{"type": "Digits", "individual_digits": True}] else None
    elif len(cuts) == 1 and cuts[0].get("behavior") == "Isolated" and not cuts[0]["invert"]:
        pre = CUTS.get(cuts[0]["pattern"].get("Regex"))
    return pre if bool(model.get("ignore_merges")) == (pre == "llama-bpe") else None
