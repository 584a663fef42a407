"""Exported GGUF files in llama.cpp: the same first 128 greedy tokens, the same tokens of texts and chats, the same end.

llama.cpp is not in the lock. The wheel of xllamacpp holds its server and needs no compiler. Install it into a folder of its own, and run this file with it:

    pip install --no-deps --target FOLDER xllamacpp==2026.10.11549
    PYTHONPATH=FOLDER pytest tests/parity/test_llama_cpp.py

Our weights are rounded as the file rounds them. llama.cpp's matrix products also round activations to float16, so where two tokens are nearly equally
likely, it may choose the other one. A test accepts such a choice and prints the difference of our logits.
"""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn import functional as F

from glassworks.data.messages import Message
from glassworks.data.reading.extended import ExtendedTokenizer
from glassworks.data.reading.text import TextTokenizer
from glassworks.generation.decoding import generate
from glassworks.generation.settings import Decoding
from glassworks.inference.export import run
from glassworks.inference.generate import Writer
from glassworks.inference.language_models import open_language_model
from glassworks.models import adapters, new_tokens
from glassworks.models.pretrained.language_models import export_language_model, load_language_model
from glassworks.models.settings.adapter import Adapter

from ..inference.instructed import BEGIN, STOP, TEMPLATE, TEXTS, write_base
from ..inference.test_gguf import MODELS

xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp is not installed; see the docstring")
TOKENS = 128
"""Greedy tokens that are compared."""
GAP = 0.05
"""Two logits that are this near may change places in float16."""
NEW = tuple(f"<|new_{number}|>" for number in range(22))
"""More tokens than the base has unused rows."""


class Text(NamedTuple):
    """What llama.cpp writes."""

    ids: list[int]
    """New tokens, without the end."""
    ended: bool


class LlamaCpp:
    """A model in llama.cpp's server, with one thread."""

    def __init__(self, file: Path) -> None:
        settings = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx, settings.n_parallel, settings.n_gpu_layers, settings.verbosity = 512, 1, 0, 0
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        settings.warmup = settings.fit_params = False
        self.server = xllamacpp.Server(settings)

    def ask(self, path: str, **content: Any) -> Any:
        """The answer to a request."""
        data, kind = json.dumps(content).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.server.listening_address}/{path}", data if content else None, kind)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, with BOS if the file asks for it. Special tokens become their ids."""
        found: list[int] = self.ask("tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        return found

    def greedy(self, prompt: list[int], count: int = TOKENS) -> Text:
        """The likeliest tokens after a prompt."""
        found = self.ask(
            "completion", prompt=prompt, n_predict=count, temperature=0, return_tokens=True, cache_prompt=False
        )
        assert found["tokens_evaluated"] == len(prompt), "llama.cpp adds no token to ids"
        return Text(found["tokens"], found["stop_type"] == "eos")


@contextmanager
def served(file: Path) -> Iterator[LlamaCpp]:
    """A GGUF in llama.cpp."""
    theirs = LlamaCpp(file)
    yield theirs
    del theirs.server


def written(folder: Path, project: Path) -> Path:
    """The GGUF of a model, in float16."""
    run(folder, project / "out", project, "gguf")
    return next((project / "out").glob("*.gguf"))


@torch.no_grad()
def rounded(folder: Path, project: Path) -> Writer:
    """The model of `glassworks generate`, with matrices rounded as in the file. An adapter is merged first."""
    writer = Writer(folder, project, merge=(folder / adapters.CONFIG).is_file())
    for parameter in writer.model.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.half())
    return writer


def assert_same(writer: Writer, prompt: list[int], found: Text, record: Any, *row: str) -> list[int]:
    """The first tokens, and whether the text ends, are ours. A token may differ where our two logits are nearly equal; nothing after it is compared."""
    [ours] = generate(writer.model, [prompt], Decoding(max_new_tokens=TOKENS), writer.opened.ends)
    theirs = found.ids[:-1] if found.ended and found.ids[-1:] and found.ids[-1] in writer.opened.ends else found.ids
    same = next((place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if same is None:
        assert len(ours) == len(theirs) and found.ended == (len(ours) < TOKENS)
        record("exports", *row, f"{len(ours)} of {len(ours)} tokens")
    else:
        with torch.no_grad():
            logits = writer.model(torch.tensor([[*prompt, *ours[:same]]]))[0, -1]
        gap = float(logits[ours[same]] - logits[theirs[same]])
        record("exports", *row, f"{same} of {len(ours)} tokens, then our logits differ by {gap:.1e}")
        assert gap <= GAP
    return ours


def learned(folder: Path, adapted: bool = False, new: tuple[int, int] | None = None) -> list[int]:
    """Teach the model of a folder a text by heart, so that the logits of a token and of all others are far apart; returns the text.

    With `adapted`, an adapter and the rows of `new` tokens learn it, and are saved to models/tuned.
    """
    torch.manual_seed(1)
    model, tokenizer = load_language_model(folder), open_language_model(folder, folder).tokenizer
    text = tokenizer.prompt(" ".join(f"{number} words {number * 7919}," for number in range(30)))[:160]
    if adapted:
        adapters.attach(model, Adapter(rank=16, alpha=32), seed=1)
    if new:
        new_tokens.attach(model, *new)
        text[40 : 40 + 2 * new[1] : 2] = range(new[0], sum(new))
    ids = torch.tensor([text])
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:]).backward()
        optimizer.step()
    if adapted:
        model.save_adapter(folder.parents[2] / "models/tuned", folder)
    else:
        export_language_model(model, folder, eos_token_id=0)
    return text


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(kind: str = "llama", **settings: Any) -> Path:
        cuts, more = MODELS[kind]
        return write_base(tmp_path / "data/weights/base", cuts, **more, **settings)

    return make


@pytest.mark.parametrize("kind", MODELS)
def test_a_small_model_writes_the_same_first_tokens(base, tmp_path, record_row, kind):
    """And its texts are cut into the same tokens, without a second BOS."""
    folder = base(kind)
    prompt = learned(folder)[:16]
    writer = rounded(folder, tmp_path)
    with served(written(folder, tmp_path)) as theirs:
        for text in [*TEXTS[:3], "1 22  333\tI'M \u00e9t\u00e9's\n"]:
            assert theirs.tokens(text) == writer.encode(text)
        rendered = f"{BEGIN}user\nin the beginning{STOP}\n{BEGIN}assistant\n"
        assert theirs.tokens(rendered) == writer.opened.template.prompt(
            [Message(role="user", content="in the beginning")]
        )
        ours = assert_same(
            writer, prompt, theirs.greedy(prompt), record_row, f"small {kind}", "llama.cpp", "a learned text"
        )
    assert len(ours) == TOKENS


@pytest.mark.parametrize("new", [(), NEW], ids=["adapter", "adapter and new tokens, tied"])
def test_a_tuned_model_writes_the_same_first_tokens(base, tmp_path, record_row, new):
    """An adapter is merged. New tokens take the unused rows and extend the embedding, which stays the output layer."""
    folder, tuned = base(), tmp_path / "models/tuned"
    tokenizer = ExtendedTokenizer(folder, new) if new else TextTokenizer(folder)
    text = learned(folder, adapted=True, new=(tokenizer.first, len(new)) if new else None)
    tokenizer.save(tuned, TEMPLATE, bos=False)
    writer, prompt = rounded(tuned, tmp_path), text[:16]
    with served(written(tuned, tmp_path)) as theirs:
        row = ("adapter, new tokens, tied head" if new else "adapter", "llama.cpp", "a learned text")
        ours = assert_same(writer, prompt, theirs.greedy(prompt), record_row, *row)
        for token in new:
            assert theirs.tokens(f"word{token}word") == writer.tokenizer.encode_chat(f"word{token}word")[0]
    assert ours == text[16 : 16 + TOKENS], "the model has learned the text, with its new tokens"


CHAT = [Message(role="user", content="Name the three primary colors.")]
PROMPT = "In the beginning God created the heaven and the earth."


def test_smollm2_writes_the_same_first_tokens_and_ends_its_answer(published, tmp_path, record_row):
    """The published model, its chat template and its stop token."""
    folder = published("smollm2_135m")
    writer, row = rounded(folder, tmp_path), ("SmolLM2-135M-Instruct", "llama.cpp")
    with served(written(folder, tmp_path)) as theirs:
        prompt = writer.encode(PROMPT)
        assert theirs.tokens(PROMPT) == prompt
        assert_same(writer, prompt, theirs.greedy(prompt), record_row, *row, "a text")
        messages = [{"role": message.role, "content": message.content} for message in CHAT]
        rendered = theirs.ask("apply-template", messages=messages)["prompt"]
        prompt = writer.opened.template.prompt(CHAT)
        assert (
            theirs.tokens(rendered) == prompt and theirs.ask("props")["chat_template"] == writer.opened.template.source
        )
        found = theirs.greedy(prompt)
        assert_same(writer, prompt, found, record_row, *row, "a chat")
        assert found.ended, "at the stop token of the template"
