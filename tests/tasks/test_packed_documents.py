"""Packed rows give the loss and the gradients of the documents alone, through the task: messages to tokens, rows, batches, loss.

Apart, a branch is a conversation that begins with the messages of its context; these have a loss in the first branch only.
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassworks.config.data import LossOptions
from glassworks.config.packing import Packing
from glassworks.data.messages import Message, as_json
from glassworks.data.reading.dataset import Sample
from glassworks.data.reading.packing import arrange
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.tasks.language_modelling.task import LanguageModellingTask

ROW = 96
LLAMA = {"position": "rotary", "norm": "rms", "feed_forward": "swiglu", "kv_heads": 2, "biases": "qkv"}
MODELS = {
    "GPT-2": TextDecoder(width=32, depth=2, heads=4, max_tokens=ROW),
    "Qwen2": TextDecoder(width=32, depth=2, heads=4, max_tokens=ROW, **LLAMA),
}
LIMITS = {torch.float32: 1e-6, torch.float64: 1e-13}


class Letters:
    pad, bos, eos, size = 0, 0, 1, 40

    def encode_all(self, texts):
        return [[0, *ids, 1] for ids in self.encode_parts(texts)]

    def encode_parts(self, texts):
        return [[2 + ord(letter) - ord("a") for letter in text] for text in texts]


class Samples:
    """Texts and lists of messages as the samples of a split, in shards of three."""

    def __init__(self, contents):
        self.contents = contents
        self.shard_sizes = [min(3, len(contents) - start) for start in range(0, len(contents), 3)]

    def __len__(self):
        return len(self.contents)

    def __getitem__(self, index):
        content = self.contents[index]
        stored = {"captions": [content]} if isinstance(content, str) else {"messages": as_json(content)}
        return Sample(f"k{index}", {"json": memoryview(json.dumps(stored).encode())}, f"sample {index}")


def apart(contents):
    """One sample for each text, conversation and branch."""
    for content in contents:
        if isinstance(content, str) or not content[-1].branch:
            yield content
            continue
        context = [message for message in content if not message.branch]
        for branch in range(1, content[-1].branch + 1):
            own = [message.model_copy(update={"branch": 0}) for message in content if message.branch == branch]
            silent = [message.model_copy(update={"weight": 0.0}) for message in context]
            yield [*(context if branch == 1 else silent), *own]


letters = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)


@st.composite
def conversation(draw):
    branches, context = draw(st.integers(0, 3)), draw(st.integers(0, 2))
    found = [
        Message(role="user", content=draw(letters), weight=draw(st.sampled_from([None, 1.0]))) for _ in range(context)
    ]
    for branch in range(1, branches + 1) if branches else (0,):
        found.append(Message(role="user", content=draw(letters), branch=branch))
        weight = draw(st.sampled_from([None, 0.5, 2.0]))
        found.append(Message(role="assistant", content=draw(letters), branch=branch, weight=weight))
    return found


def loss_and_gradients(task, model, contents, packing, dtype):
    rows = arrange(Samples(contents), task.tokenizer, packing)
    model.zero_grad()
    total = weight = 0.0
    for start in range(0, len(rows), 2):
        batch = task.collate([task.example(rows[i], LossOptions(), 0) for i in range(start, min(start + 2, len(rows)))])
        loss = task.loss(model, batch)
        loss.total.backward()
        total, weight = total + loss.total.item(), weight + loss.weight
    return total, weight, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}, len(rows)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("name", MODELS)
@given(
    contents=st.lists(st.one_of(st.text("abcdefgh", min_size=1, max_size=30), conversation()), min_size=6, max_size=10),
    most=st.sampled_from([None, 2, 3]),
)
@settings(max_examples=20, derandomize=True)
def test_packed_documents_have_the_loss_and_the_gradients_of_the_documents_alone(name, dtype, contents, most):
    task = LanguageModellingTask(MODELS[name], Letters())
    torch.manual_seed(0)
    model = task.build()
    for embedding in (module for module in model.modules() if isinstance(module, torch.nn.Embedding)):
        embedding.weight.data.mul_(25)  # the scale of a trained model
    model = model.to(dtype).eval()
    packed = loss_and_gradients(task, model, contents, Packing(row_tokens=ROW, documents_per_row=most), dtype)
    alone = loss_and_gradients(task, model, list(apart(contents)), Packing(row_tokens=ROW, documents_per_row=1), dtype)
    assert packed[3] < alone[3]
    assert packed[1] == alone[1]
    assert abs(packed[0] - alone[0]) <= LIMITS[dtype] * abs(alone[0])
    for parameter, gradient in alone[2].items():
        difference = (packed[2][parameter] - gradient).norm() / gradient.norm()
        assert difference <= LIMITS[dtype], (parameter, difference)


def test_the_weight_of_a_message_scales_its_loss_and_counts_in_the_normaliser():
    task = LanguageModellingTask(MODELS["Qwen2"], Letters())
    torch.manual_seed(0)
    model = task.build().eval()

    def loss(weight):
        messages = [Message(role="user", content="ab"), Message(role="assistant", content="cde", weight=weight)]
        rows = arrange(Samples([messages]), task.tokenizer, task.packing)
        return task.loss(model, task.collate([rows[0]]))

    plain, half = loss(None), loss(0.5)
    assert (plain.weight, half.weight) == (4, 2)
    torch.testing.assert_close(half.total, plain.total / 2)
    assert np.isclose(plain.total.item() / plain.weight, half.total.item() / half.weight)


def test_texts_in_a_batch_with_trees_have_the_bits_that_they_have_alone():
    task = LanguageModellingTask(MODELS["GPT-2"], Letters())
    torch.manual_seed(0)
    model = task.build().eval()
    tree = [
        Message(role="user", content="abc"),
        Message(role="assistant", content="d", branch=1),
        Message(role="assistant", content="e", branch=2),
    ]
    text = arrange(Samples(["abcdefgh", "ab"]), task.tokenizer, task.packing)[0]
    other = arrange(Samples([tree]), task.tokenizer, task.packing)[0]
    alone, mixed = task.collate([text, text]), task.collate([text, other])
    assert alone.branches is None and mixed.branches is not None
    assert torch.equal(model(alone.inputs, *alone.layout)[0], model(mixed.inputs, *mixed.layout)[0])
