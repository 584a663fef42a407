"""The stage `tokenizer`: a byte-level BPE tokenizer trained on the captions of the training split, in the files transformers reads."""

import os
from typing import Any

from glassworks.artifacts.digests import write_json
from glassworks.data.records import read_table
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}


def run(context: Context) -> dict[str, Any]:
    """Train on every caption of the training split. Ids 0, 1, 2 are padding, beginning and end of a text: three tokens, never one for two."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    captions = [caption for record in read_table(context.inputs["records"], "train") for caption in record.captions]
    if not captions:
        raise DataError(f"{context.inputs['records'].name}: the training split has no captions to train a tokenizer on")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=context.params["vocab_size"],
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.save(str(context.output / "tokenizer.json"))
    write_json(context.output / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL})
    write_json(context.output / "special_tokens_map.json", SPECIAL)
    return {"vocabulary": tokenizer.get_vocab_size(), "captions": len(captions)}
