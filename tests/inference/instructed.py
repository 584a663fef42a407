"""A small published chat model with random weights, and adapters of it."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from glassworks.artifacts.digests import write_json
from glassworks.artifacts.manifest import MANIFEST
from glassworks.data.reading.text import TextTokenizer
from glassworks.models.adapters import adapter_tensors, attach
from glassworks.models.language_model import LanguageModel
from glassworks.models.pretrained.language_models import export_language_model
from glassworks.models.settings.adapter import Adapter
from glassworks.models.settings.text_decoder import TextDecoder

END, BEGIN, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = ["in the beginning was the word", "I'll count 12345 words, I've said", "caf\u00e9 \u20ac  and\n\nmore"] * 3
VOCABULARY, UNUSED = 300, 20
LLAMA = {"position": "rotary", "norm": "rms", "feed_forward": "swiglu", "biases": "none"}
CUTS = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
}


def write_tokenizer(folder: Path, cuts: list) -> None:
    """Byte-level BPE with a chat template that ends a turn with another token than EOS."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(cuts) if len(cuts) > 1 else cuts[0]
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [END, BEGIN, STOP]
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": END, "bos_token": BEGIN, "pad_token": END})
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def write_base(folder: Path, cuts: str | list = "smollm", **settings) -> Path:
    """A model in transformers' layout: tied embeddings, of which the last have no token, as after a resize."""
    torch.manual_seed(5)
    shape = TextDecoder(width=32, depth=2, heads=4, **{"kv_heads": 2, "max_tokens": 256, **LLAMA, **settings})
    model = LanguageModel(shape, VOCABULARY + UNUSED)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 2 else 0.1))
        parameter.data.copy_(parameter.half())  # float16 holds it
    export_language_model(model, folder, eos_token_id=0)
    write_tokenizer(folder, CUTS[cuts] if isinstance(cuts, str) else cuts)
    write_json(folder / MANIFEST, {"schema": 1, "counts": {}, "files": {}})
    return folder


def write_adapter(folder: Path, base: Path, model: LanguageModel, **settings) -> Path:
    """An adapter of `model`, the one in `base`, as after training."""
    attach(model, Adapter(**{"rank": 4, "alpha": 8, **settings}), seed=1)
    generator = torch.Generator().manual_seed(9)
    for name, tensor in adapter_tensors(model).items():
        if "lora_B" in name:
            tensor.normal_(0, 0.2, generator=generator)
        if "magnitude" in name:
            tensor.mul_(1 + 0.2 * torch.randn(tensor.shape, generator=generator))
    model.save_adapter(folder, base)
    TextTokenizer(base).save(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder
