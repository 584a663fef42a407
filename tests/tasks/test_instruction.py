"""Instruction tuning from the conversations to the saved model: rows, loss, template, and what is refused."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from glassworks.artifacts.manifest import read_recipe
from glassworks.config.packing import Packing
from glassworks.config.project import load_project
from glassworks.data.messages import parse_messages
from glassworks.data.reading.chat import ChatTemplate
from glassworks.data.reading.packing import Plan
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import Tokens
from glassworks.data.records import Record
from glassworks.errors import ConfigError, DataError
from glassworks.models.losses import IGNORED
from glassworks.models.new_tokens import ROWS
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.stages import records as records_stage
from glassworks.stages import shards as shards_stage
from glassworks.tasks.instruction.task import InstructionTask, load

from ..data.chats import CHATML, MISTRAL, ONE, TWO, template
from .test_packed_documents import Samples

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
PARAMS = {
    "datasets": {
        name: {"source": "folder", "path": name, "samples_per_shard": 5, "shard_jobs": 1} for name in ("chats", "texts")
    }
}
BASE = {
    "task": "language_modelling",
    "data": {"dataset": "texts", "tokenizer": {"vocab_size": 280}},
    "model": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 64},
    "training": {"steps": 1, "batch_size": 2, "micro_batches": 1},
    "evaluations": {},
}
TUNED = {
    "task": "instruction",
    "data": {"dataset": "chats", "tokenizer": {"of": "base"}, "template": "chat.jinja"},
    "model": {"from": "base"},
    "training": {"steps": 2, "batch_size": 2, "micro_batches": 1, "validate_every": 1},
}
LONG = 7
"""The conversation that is longer than a row of 24 tokens."""


def chat(number: int, split: str) -> Record:
    key = f"{split}{number}"
    answer = "a pear and an apple" * (2 if number == LONG else 1)
    found = [{"role": "user", "content": f"fruit {number}?"}, {"role": "assistant", "content": answer}]
    return Record(key, split, key, messages=parse_messages(found, key))


RECORDS = {
    "chats": [chat(number, split) for split, count in (("train", 12), ("validation", 4)) for number in range(count)],
    "texts": [Record(f"t{n}", "train", f"t{n}", [f"a pear and an apple, {n} assistant: user"]) for n in range(6)],
}


def with_(changes: dict, **model) -> dict:
    return {**TUNED, "data": {**TUNED["data"], **changes}, "model": {**TUNED["model"], **model}}


@pytest.fixture
def tuned(project, monkeypatch):
    """A project with a trained base and conversations to tune it on."""
    source = SimpleNamespace(
        records=lambda context: iter(RECORDS[context.stage.subject]), media=lambda context: lambda record: {}
    )
    for stage in (records_stage, shards_stage):
        monkeypatch.setattr(stage, "load_source", lambda name: source)
    for name in RECORDS:
        (project.root / name).mkdir()
        (project.root / name / "captions.csv").write_text("file,caption\n")
    (project.root / "chat.jinja").write_text(TEMPLATE)
    project.configure(PARAMS, base=BASE, tuned=TUNED)
    for kind, name in itertools.product(("fetch", "records", "shards"), RECORDS):
        project.run(f"{kind}-{name}")
    for stage in ("tokenizer-base", "pack-base", "train-base"):
        project.run(stage)
    return project


def test_a_base_of_the_project_is_tuned_and_saved_with_its_template(tuned):
    packed = tuned.run("pack-tuned")
    tokenizer = TextTokenizer(tuned.root / "data/tokenizers/base")
    rows = json.loads((packed / "rows.json").read_text())
    [first, *_] = rows["chats"]
    assert set(rows) == {"chats"} and first["row"] == 0 and first["padding"] < 64
    runs = first["texts"][0]
    assert [weight for _, weight in runs] == [0, 1]
    assert runs[0][0].startswith("user:\nfruit ") and runs[0][0].endswith("?\nassistant:\n")
    assert runs[1][0] == "a pear and an apple<|eos|>"
    counts = json.loads((packed / "manifest.json").read_text())["counts"]["chats"]["train"]
    weights = np.load(packed / "chats/train/tokens/weights.npy")
    assert counts["dropped"] == 0 and counts["supervised"] == (weights > 0).sum() > 0

    folder = tuned.run("train-tuned")
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    tokens, inputs = tokenizer.encode_parts(["user:\nhi\nassistant:\n"])[0], {"model": folder}
    task, model = load(inputs, TUNED["data"])
    assert task.template.prompt(parse_messages([{"role": "user", "content": "hi"}], "")) == tokens
    assert model.config.width == 16 and task.template.stop == tokenizer.eos
    saved = ChatTemplate.of(folder, TextTokenizer(folder))
    assert saved is not None and saved.source == TEMPLATE


def test_a_tuned_model_is_scored_on_texts(tuned):
    """Bits per byte of a text before and after tuning show what was forgotten."""
    evaluations = {"language": {"dataset": "texts", "split": "train", "new_tokens": 2, "temperatures": [0.0]}}
    tuned.configure(PARAMS, base=BASE, tuned={**TUNED, "evaluations": evaluations})
    for stage in ("pack-tuned", "train-tuned"):
        tuned.run(stage)
    metrics = json.loads((tuned.run("evaluate-tuned-language") / "metrics.json").read_text())
    assert metrics["samples"] == 6 and 0 < metrics["bits_per_byte"]["value"] < 20


def test_defect_002_a_speed_is_recorded_with_its_conditions(tuned):
    """The document has tokens per second without machine, batch or length. Here the machine, the versions and the settings are beside the speed."""
    tuned.run("pack-tuned")
    folder = tuned.run("train-tuned")
    made, recipe = json.loads((tuned.root / "provenance/train-tuned.json").read_text()), read_recipe(folder)
    assert made["samples_per_second"] > 0 and made["workers"] == 1 and made["cores"] >= 1 and made["seconds"] > 0
    assert {"host", "platform", "peak_memory_bytes"} <= made.keys()
    assert {"versions", "machine", "cpu_isa", "device", "reduction"} <= recipe["fingerprint"].keys()
    training = recipe["params"]["training"]
    assert (training["batch_size"], training["precision"]) == (2, "fp32")


def test_defect_000_6_padding_that_is_eos_hides_no_eos(tmp_path):
    """A tokenizer without padding pads with EOS. A mask by token hides the EOS that ends an answer, and the model never learns to end."""
    chat = template(tmp_path, MISTRAL, pad_token="")
    tokenizer = chat.tokenizer
    assert tokenizer.pad == tokenizer.eos
    task = InstructionTask(
        chat, TextDecoder(width=8, depth=1, heads=1, max_tokens=120), tokenizer, Packing(row_tokens=120)
    )
    rows = task.arrange(Samples([ONE, [*TWO[2:]]]))
    assert len(rows) == 1
    batch, used = task.collate([rows[0]]), len(rows[0].inputs)
    assert (batch.targets == tokenizer.eos).sum() == 2
    assert (batch.inputs[0, used:] == tokenizer.eos).all() and (batch.targets[0, used:] == IGNORED).all() and used < 120


def test_pain_13_a_conversation_longer_than_a_row_is_refused_or_dropped_and_never_cut(tuned, capsys):
    tuned.configure(PARAMS, base=BASE, tuned=with_({}, max_tokens=24))
    with pytest.raises(DataError) as refused:
        tuned.run("pack-tuned")
    assert "sample 'train7': " in str(refused.value) and "a row has room for 24" in str(refused.value)
    assert "1 of 12 conversations are longer than a row" in str(refused.value)
    assert str(refused.value).endswith("set data.too_long: drop, since an answer is never cut")
    tuned.configure(PARAMS, base=BASE, tuned=with_({"too_long": "drop"}, max_tokens=24))
    packed = tuned.run("pack-tuned")
    counts = json.loads((packed / "manifest.json").read_text())["counts"]["chats"]
    assert (counts["train"]["dropped"], counts["validation"]["dropped"]) == (1, 0)
    assert "pack-tuned: dropped 1 of 12 conversations of the train split of 'chats'" in capsys.readouterr().err
    plan, tokens = Plan.load(packed / "chats/train/plan"), Tokens.load(packed / "chats/train/tokens")
    assert sorted(plan.items[:, 0].tolist()) == [number for number in range(12) if number != _place(tuned)]
    inputs = tokens.inputs()
    assert all(length == inputs[document] for document, _, length in plan.items.tolist()), "whole, with their answers"


def _place(project) -> int:
    """The place of the long conversation in the training split."""
    tokens = Tokens.load(project.root / "data/packs/tuned/chats/train/tokens")
    return int(tokens.inputs().argmax())


def test_rows_depend_on_the_template_and_its_options(tuned):
    from glassworks.pipeline.freshness import Keys

    def key() -> str:
        return Keys(tuned.table).ingredients(tuned.table["pack-tuned"]).key

    before = key()
    (tuned.root / "chat.jinja").write_text(TEMPLATE + " ")
    changed = key()
    tuned.configure(PARAMS, base=BASE, tuned=with_({"supervise": "last"}))
    assert len({before, changed, key()}) == 3


def test_a_tokenizer_without_a_template_is_one_line(tuned):
    tuned.configure(PARAMS, base=BASE, tuned=with_({"template": None}))
    with pytest.raises(ConfigError, match=r"^data.template: the tokenizer in .* comes with no chat template; name a"):
        tuned.run("pack-tuned")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model": {"width": 16}}, "model: instruction tuning starts with a trained model"),
        ({"model": {"from": "bases"}}, "model.from: params.yaml lists no other instruction experiment called 'bases'; did you mean 'base'?"),
        ({"data": {**TUNED["data"], "new_tokens": ["<|im_end|>"]}}, "data.new_tokens: their rows are trained beside a new adapter; set `model.adapter`"),
        ({"data": {**TUNED["data"], "too_long": "cut"}}, "data.too_long: unknown value 'cut'"),
        ({"data": {**TUNED["data"], "templates": "x"}}, "data.templates: unknown key; did you mean 'template'?"),
        ({"data": {**TUNED["data"], "template": "chta.jinja"}}, "data.template: there is no file chta.jinja; did you mean 'chat.jinja'?"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_one_line(project, change, line):
    project.root.joinpath("chats").mkdir()
    (project.root / "chat.jinja").write_text(TEMPLATE)
    with pytest.raises(ConfigError) as refused:
        project.configure(PARAMS, base=BASE, tuned={**TUNED, **change})
    assert line in str(refused.value)


def test_answers_are_the_default_evaluation_and_read_the_base_of_any_tuning(project):
    adapted = {**TUNED, "model": {**TUNED["model"], "adapter": {"kind": "lora"}}}
    (project.root / "chat.jinja").write_text(TEMPLATE)
    project.configure(PARAMS, base=BASE, tuned=TUNED, adapted=adapted)
    assert [*load_project(project.root).experiments["tuned"].evaluations] == ["answers"]
    for name in ("tuned", "adapted"):
        assert project.table[f"evaluate-{name}-answers"].inputs["start"] == "train-base"


NEW = ["<|im_start|>", "<|im_end|>"]
NEW_TOKENS = {
    **TUNED,
    "model": {**TUNED["model"], "adapter": {"rank": 2}},
    "data": {**TUNED["data"], "new_tokens": NEW},
}


def test_new_tokens_of_the_template_are_trained_saved_and_known_to_the_model_that_is_compared(tuned):
    """A template of a chat model on a base that lacks its tokens. One set of bytes for 1 and 2 workers."""
    (tuned.root / "chat.jinja").write_text(CHATML)
    training = {**TUNED["training"], "micro_batches": 2, "steps": 4}
    experiment = {
        **NEW_TOKENS,
        "training": training,
        "evaluations": {"answers": {"split": "validation", "max_new_tokens": 4}},
    }
    tuned.configure(PARAMS, base=BASE, tuned=experiment)
    size = TextTokenizer(tuned.root / "data/tokenizers/base").size
    packed = tuned.run("pack-tuned")
    [first, *_] = json.loads((packed / "rows.json").read_text())["chats"]
    assert first["texts"][0][1] == ["a pear and an apple<|im_end|>\n", 1]
    folder = tuned.run("train-tuned", workers=1)
    before = (folder / "adapter_model.safetensors").read_bytes()
    assert (tuned.run("train-tuned", workers=2) / "adapter_model.safetensors").read_bytes() == before

    tokenizer = TextTokenizer(folder)
    ids = [tokenizer.id_of(token) for token in NEW]
    assert ids == [size, size + 1] and tokenizer.ends == (tokenizer.eos, ids[1])
    rows = load_file(folder / "adapter_model.safetensors")[f"base_model.model.decoder.tokens.{ROWS}"]
    assert rows.shape == (2, 16) and not torch.equal(rows[0], rows[1]), "they began with equal values"
    task, model = load({"model": folder}, experiment["data"])
    assert task.template.stop == ids[1] and model.vocabulary == size + 2
    metrics = json.loads((tuned.run("evaluate-tuned-answers") / "metrics.json").read_text())
    assert {"model", "base"} <= metrics["systems"].keys()


def test_a_new_token_that_the_tokenizer_has_is_one_line(tuned):
    data = {**NEW_TOKENS["data"], "new_tokens": [*NEW, "<|eos|>"]}
    tuned.configure(PARAMS, base=BASE, tuned={**NEW_TOKENS, "data": data})
    with pytest.raises(
        ConfigError, match=r"^data.new_tokens: '<\|eos\|>' is a token of .*tokenizers/base already; remove it$"
    ):
        tuned.run("pack-tuned")
