"""Answers are scored by their questions, their ends and their losses; every number is computed here in another way."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from glassworks.data.messages import parse_messages
from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.records import Record
from glassworks.evaluation.answers.questions import exchanged, is_exact, question_of, right_fields
from glassworks.generation.decoding import generate
from glassworks.generation.settings import Decoding
from glassworks.inference.language_models import open_language_model
from glassworks.models.losses import next_token_losses
from glassworks.report.reading import read_scores
from glassworks.stages import records as records_stage
from glassworks.stages import shards as shards_stage

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
FRUIT, NEW = ("pear", "apple", "plum"), 12


def chat(number: int, split: str) -> Record:
    """A question with a text or a JSON object as its answer. Two questions each are about one fact."""
    key, kind = f"{split}{number:02}", ("word", "json")[number % 2]
    answer = '{"a": "b"}' if kind == "json" else "ab"
    found = [
        *([{"role": "system", "content": "Be brief."}] if number % 3 == 0 else []),
        {"role": "user", "content": f"{kind} {FRUIT[number % 3]}?"},
        {"role": "assistant", "content": answer},
    ]
    labels = {"kind": kind, "fact": [f"{kind}{number // 4}"]}
    return Record(key, split, key, labels=labels, messages=parse_messages(found, key))


def text(number: int) -> str:
    return f'user:word pear apple plum?assistant:ab{{"a": "b"}} {number}'


RECORDS = {
    "chats": [chat(number, split) for split, count in (("train", 24), ("test", 9)) for number in range(count)],
    "texts": [
        Record(f"{split}{n}", split, f"{split}{n}", [text(n)])
        for split, count in (("train", 12), ("test", 4))
        for n in range(count)
    ],
}
PARAMS = {
    "datasets": {
        name: {"source": "folder", "path": name, "samples_per_shard": 5, "shard_jobs": 1} for name in ("chats", "texts")
    }
}
BASE = {
    "task": "language_modelling",
    "data": {"dataset": "texts", "tokenizer": {"vocab_size": 280}},
    "model": {"width": 32, "depth": 2, "heads": 2, "max_tokens": 160, "position": "rotary"},
    "optimization": {"learning_rate": 1e-2, "warmup_steps": 1},
    "training": {"steps": 60, "batch_size": 2, "micro_batches": 1},
    "evaluations": {},
}
TUNED = {
    "task": "instruction",
    "data": {"dataset": "chats", "tokenizer": {"of": "base"}, "template": "chat.jinja"},
    "model": {"from": "base", "adapter": {"kind": "lora", "rank": 8}, "base_dtype": "bf16"},
    "optimization": {"learning_rate": 3e-2, "warmup_steps": 2, "schedule": "constant"},
    "training": {"steps": 60, "batch_size": 4, "micro_batches": 1, "precision": "bf16"},
    "evaluations": {
        "answers": {
            "batch_size": 2,
            "max_new_tokens": NEW,
            "shots": 2,
            "forgetting": "texts",
            "forgetting_texts": 3,
            "bootstrap": 100,
        }
    },
}
STAGE = "evaluate-tuned-answers"


@pytest.fixture
def tuned(project, monkeypatch):
    """A project with an adapter of a small base, scored by one worker."""
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
    for stage in ("tokenizer-base", "pack-base", "train-base", "pack-tuned", "train-tuned", STAGE):
        project.run(stage)
    return project


def losses_of(model, documents):
    """Sums of the losses of the weighted targets of each document [ids, weights], and of their weights."""
    sums = torch.zeros(2, dtype=torch.float64)
    for ids, weights in documents:
        given = torch.tensor(ids)[None]
        with torch.no_grad():
            losses = next_token_losses(model(given[:, :-1]), given[:, 1:])[0]
        sums += torch.stack([(losses * torch.tensor(weights[1:])).sum(), torch.tensor(weights[1:]).sum()])
    return sums.tolist()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.json*") if path.name != "recipe.json"}


def test_every_system_is_scored_as_if_alone_by_any_number_of_workers_and_the_report_reads_it(tuned):
    root = tuned.root
    metrics = json.loads((root / "results/tuned/answers/metrics.json").read_text())
    items = [json.loads(line) for line in (root / "results/tuned/answers/items.jsonl").read_text().splitlines()]
    opened = open_language_model(root / "models/tuned", root, merged=True)
    base = open_language_model(root / "models/base", root).model
    for parameter in base.parameters():
        parameter.data = parameter.data.bfloat16().float()  # as training held them
    dataset = ShardDataset(root / "data/shards/chats", "test")
    questions = [question_of(dataset[index]) for index in range(9)]
    assert [item["key"] for item in items] == [one.key for one in questions]
    for name, model in {"model": opened.model, "base": base}.items():
        right = ended = 0
        for item, one in zip(items, questions, strict=True):
            prompt = opened.template.prompt(one.messages)
            [ids] = generate(model, [prompt], Decoding(max_new_tokens=NEW), opened.ends)
            assert item[name] == opened.tokenizer.text([*prompt, *ids])[len(opened.tokenizer.text(prompt)) :]
            right += item[name].split() == one.answer.split()
            ended += len(ids) < NEW
        system = metrics["systems"][name]
        assert system["exact"]["value"] == pytest.approx(right / 9, abs=1e-6)
        assert system["ended"]["value"] == pytest.approx(ended / 9, abs=1e-6)
        documents = [opened.template.document(one.solved()) for one in questions]
        total, count = losses_of(model, [(one.segments[0], one.weights[0]) for one in documents])
        assert system["loss"]["value"] == pytest.approx(total / count, rel=1e-4)
        texts = [opened.tokenizer.encode_all([text(n)])[0] for n in range(3)]
        nats, _ = losses_of(model, [(ids, [1.0] * (len(ids) - 1) + [0.0]) for ids in texts])
        when = {"model": "after", "base": "before"}[name]
        assert metrics["forgetting"][when]["value"] == pytest.approx(
            nats / 0.6931472 / sum(len(text(n)) for n in range(3)), rel=1e-4
        )
    assert metrics["systems"]["model"]["exact"]["value"] > 0.5 > metrics["systems"]["base"]["exact"]["value"]
    assert metrics["systems"]["model"]["fields"].keys() == {"a"}
    assert {kind: found["questions"] for kind, found in metrics["systems"]["model"]["kinds"].items()} == {
        "word": 5,
        "json": 4,
    }

    folder = root / "results/tuned/answers"
    before = contents(folder)
    tuned.run(STAGE, workers=2)
    assert contents(folder) == before and {"metrics.json", "items.jsonl", "labels.json"} < before.keys()
    scores = read_scores("tuned", "answers", {}, folder, 5)
    assert len(scores.pictures) == 5 and scores.pictures[0].question == "word pear?"
    assert [row.name for row in scores.labels.table.rows] == ["model", "few_shot", "base", "shuffled"]


def test_json_is_compared_by_value_and_texts_up_to_white_space():
    assert is_exact(' {"b":null,"a":"x"}\n', '{"a": "x", "b": null}')
    assert not is_exact('{"a": "x"}', '{"a": "x", "b": null}') and not is_exact("x", '{"a": "x"}')
    assert not is_exact('{"a": true}', '{"a": 1}')
    assert is_exact("animals  nature\n", "animals nature") and not is_exact("Animals nature", "animals nature")
    assert right_fields('{"a": "x", "b": 1}', {"a": "x", "b": None, "c": None}) == {"a": True, "b": False, "c": False}
    assert right_fields('{"a": "x"', {"a": "x"}) == {"a": False}


def test_an_instruction_is_exchanged_for_another_one_of_its_kind():
    questions = [SimpleNamespace(key=f"k{number}", kind="ab"[number % 2]) for number in range(20)]
    others = exchanged(questions, seed=1)
    assert sorted(others) == list(range(20))
    assert all(one != other and one % 2 == other % 2 for one, other in enumerate(others))
