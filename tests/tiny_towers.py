"""Published encoders in miniature, with random weights in the published layouts."""

import json
from pathlib import Path

import timm
import torch
import transformers
from safetensors.torch import save_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "is", "square", "red", "green", "blue", "grey"]


def image_tower(directory: Path, seed: int = 0) -> Path:
    """A small EfficientNet in timm's layout on the hub."""
    torch.manual_seed(seed)
    network = timm.create_model("test_efficientnet", num_classes=10)
    directory.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, directory / "model.safetensors"
    )
    (directory / "config.json").write_text(json.dumps({"architecture": "test_efficientnet", "num_classes": 10}))
    return directory


def text_tower(directory: Path, seed: int = 0) -> Path:
    """A small BERT with its tokenizer in transformers' layout."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    transformers.BertModel(config).save_pretrained(directory)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(directory)
    return directory


def speech_tower(directory: Path, seed: int = 0) -> Path:
    """A small Whisper in transformers' layout."""
    torch.manual_seed(seed)
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64, decoder_layers=1,
        decoder_attention_heads=4, decoder_ffn_dim=64, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    transformers.WhisperModel(config).save_pretrained(directory)
    return directory
