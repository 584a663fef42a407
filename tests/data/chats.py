"""Conversations, chat templates and a tokenizer for tests: bytes, without merges, and the special tokens of a template."""

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from glassworks.data.messages import Message
from glassworks.data.reading.chat import ChatTemplate
from glassworks.data.reading.text import TextTokenizer

TEMPLATES = Path(__file__).parent / "chat_templates"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
LLAMA = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
SOURCES = {
    "ChatML": CHATML,
    "Llama 3": LLAMA,
    "Gemma": GEMMA,
    "Mistral": MISTRAL,
    "Phi-3": PHI,
    "Qwen2.5": (TEMPLATES / "qwen2_5.jinja").read_text(),
    "Qwen3": (TEMPLATES / "qwen3_training.jinja").read_text(),
}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "x"}}}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer", "description": "n"}}},
        },
    }
]
PLAIN = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Added tokens that are not special, as in Qwen3."""
SPECIAL = re.compile(
    r"<[|｜][^<>\s'\"{}]*?[|｜]>|<(?:start|end)_of_turn>|<end_of_utterance>|\[/?INST\]|\[gMASK\]|<sop>|<\|?(?:turn|tool|channel|tool_call|tool_response)\|?>"
)


def make_tokenizer(directory: Path, source: str = "", **names: str) -> Path:
    """A folder with a tokenizer that has the special tokens of a template. It begins texts with BOS, as Llama's does."""
    special = ["<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|im_start|>", "<|im_end|>"]
    special = list(dict.fromkeys([*special, *(token for token in SPECIAL.findall(source) if token not in PLAIN)]))
    vocabulary = {
        token: number for number, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(list(PLAIN))
    tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>", **names}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **{name: text for name, text in names.items() if text}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def template(directory: Path, source: str, supervise: Any = "all", **names: str) -> ChatTemplate:
    return ChatTemplate(source, TextTokenizer(make_tokenizer(directory, source, **names)), "the template", supervise)


def said(role: str, content: str, **more: Any) -> Message:
    return Message(role=role, content=content, **more)


ONE = [said("user", "Which fruit?"), said("assistant", "An apple.")]
TWO = [*ONE, said("user", "And?"), said("assistant", "A pear: 🍐")]
THINKING = [said("user", "Which?"), said("assistant", "A pear.", reasoning="Fruit is sweet.")]
CALLING = [
    said("user", "1 + x?"),
    said("assistant", "", tool_calls=[CALL]),
    said("tool", "2", name="add"),
    said("assistant", "It is 2."),
]
CHATS: dict[str, tuple[list[Message], list[Any] | None]] = {
    "one turn": (ONE, None),
    "two turns": (TWO, None),
    "a system prompt": ([said("system", "Be short."), *ONE], None),
    "thinking": (THINKING, None),
    "thinking twice": ([*THINKING, said("user", "And?"), said("assistant", "A fig.", reasoning="Hm.")], None),
    "a tool": (CALLING, TOOLS),
}


def plain(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as transformers takes them."""
    found = [message.model_dump(exclude_defaults=True) for message in messages]
    return [{("reasoning_content" if key == "reasoning" else key): text for key, text in one.items()} for one in found]


def supervised(chat: ChatTemplate, messages: list[Message], tools: list[Any] | None = None) -> list[str]:
    """The runs of supervised text of a conversation."""
    document = chat.document(messages, tools, "row 1")
    assert document.weights is not None
    runs: list[list[int]] = [[]]
    for number, weight in zip(document.segments[0], document.weights[0], strict=True):
        if weight:
            runs[-1].append(number)
        elif runs[-1]:
            runs.append([])
    return [chat.tokenizer.shown(run) for run in runs if run]
