"""The stage `pack`, and training on its rows: texts, conversations and message trees of a mixture. One set of bytes for any number of jobs, workers and loaders."""

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from glassworks.artifacts.digests import sha256_file
from glassworks.data.messages import parse_messages
from glassworks.data.reading import packing
from glassworks.data.records import Record
from glassworks.errors import DataError
from glassworks.stages import records as records_stage
from glassworks.stages import shards as shards_stage
from glassworks.stages.train import describe
from glassworks.training.metrics_log import read_metrics

PARAMS = {
    "datasets": {
        name: {"source": "folder", "path": name, "samples_per_shard": 5, "shard_jobs": 1}
        for name in ("chats", "verses")
    }
}
EXPERIMENT = {
    "task": "language_modelling",
    "data": {
        "train": [
            {"dataset": "chats", "rate": 0.6, "options": {"loss_weight": 2.0}},
            {"dataset": "verses", "rate": 0.4},
        ],
        "tokenizer": {"kind": "characters"},
        "documents_per_row": 4,
    },
    "model": {"width": 16, "depth": 2, "heads": 2, "max_tokens": 40, "dropout": 0.1},
    "training": {"steps": 4, "batch_size": 4, "micro_batches": 2, "validate_every": 2},
    "evaluations": {},
}


def chat(number: int, split: str) -> Record:
    """A text, a conversation or a tree."""
    key, name = f"{split}{number}", "abcdefgh"[number % 8]
    if number % 3 == 0:
        return Record(key, split, key, [f"text {name}"])
    branch = number % 3 - 1
    messages = [
        {"role": "user", "content": f"a {name}"},
        {"role": "assistant", "content": name * (number % 7 + 1), "branch": branch},
        *([{"role": "assistant", "content": "no", "branch": 2, "weight": 0.5}] if branch else []),
    ]
    return Record(key, split, key, messages=parse_messages(messages, key))


def verse(number: int, split: str) -> Record:
    return Record(f"{split}{number}", split, f"{split}{number}", [f"verse {number} " + "so " * (number % 20)])


RECORDS = {
    name: [make(number, split) for split, count in (("train", 23), ("validation", 6)) for number in range(count)]
    for name, make in (("chats", chat), ("verses", verse))
}


@pytest.fixture
def packable(project, monkeypatch):
    """A project with two data sets of the records above, and a tokenizer."""
    source = SimpleNamespace(
        records=lambda context: iter(RECORDS[context.stage.subject]), media=lambda context: lambda record: {}
    )
    for stage in (records_stage, shards_stage):
        monkeypatch.setattr(stage, "load_source", lambda name: source)
    for name in RECORDS:
        (project.root / name).mkdir()
        (project.root / name / "captions.csv").write_text("file,caption\n")
    project.configure(PARAMS, lm=EXPERIMENT)
    for kind, name in itertools.product(("fetch", "records", "shards"), RECORDS):
        project.run(f"{kind}-{name}")
    project.run("tokenizer-lm")
    return project


def test_the_rows_are_the_same_for_any_number_of_jobs(packable):
    assert packable.table["pack-lm"].jobs == 0
    whole = (packable.run("pack-lm") / "manifest.json").read_bytes()
    packable.configure(PARAMS, lm={**EXPERIMENT, "execution": {"pack_jobs": 3}})
    for job in (2, 0):  # the collecting stage does the work of a missing job
        packable.run_job("pack-lm", job)
    assert (packable.run("pack-lm") / "manifest.json").read_bytes() == whole
    counts = json.loads(whole)["counts"]
    assert {name: list(splits) for name, splits in counts.items()} == {key: ["train", "validation"] for key in RECORDS}
    assert counts["chats"]["train"]["documents"] == 23 > counts["chats"]["train"]["rows"]
    folder = packable.root / "data/packs/lm"
    assert {path.stem for path in folder.glob("chats/train/tokens/*")} == {
        "ids",
        "ends",
        "segments",
        "weights",
        "texts",
    }
    assert {path.stem for path in folder.glob("verses/train/tokens/*")} == {"ids", "ends"}
    starts = np.load(folder / "chats/train/plan/starts.npy")
    assert np.diff(starts).max() == 4


@pytest.mark.parametrize(
    ("recursion", "counts"), [(None, ((1, 0), (1, 2), (2, 0), (2, 2))), ({"outer_recursions": 2}, ((1, 0), (2, 2)))]
)
def test_one_set_of_bytes_for_any_number_of_workers_and_loaders(packable, recursion, counts):
    packable.run("pack-lm")
    found = set()
    for workers, loaders in counts:
        model = {**EXPERIMENT["model"], "recursion": recursion}
        packable.configure(PARAMS, lm={**EXPERIMENT, "model": model, "execution": {"loader_workers": loaders}})
        folder = packable.run("train-lm", workers=workers)
        found.add((sha256_file(folder / "model.safetensors"), sha256_file(folder / "metrics.jsonl")))
    assert len(found) == 1
    last = read_metrics(folder / "metrics.jsonl")[-1]
    losses = [last[f"validation_loss{name}"] for name in ("", ".chats", ".verses")]
    assert min(losses[1:]) < losses[0] < max(losses[1:])


def test_training_maps_the_rows_and_tokenizes_nothing(packable, tmp_path, monkeypatch):
    packable.run("pack-lm")
    for name in ("tokenize", "plan_rows"):
        monkeypatch.setattr(packing, name, None)
    run = describe(packable.context("train-lm", tmp_path / "work"))
    [parts] = [argument for argument in run.batches.args if isinstance(argument, list)]
    assert all(isinstance(part.rows.tokens.ids, np.memmap) for part in parts)
    assert not list(Path(run.folder).glob("**/*.npy"))


def test_a_tree_longer_than_a_row_is_one_line(packable):
    packable.configure(PARAMS, lm={**EXPERIMENT, "model": {**EXPERIMENT["model"], "max_tokens": 12}})
    with pytest.raises(DataError) as refused:
        packable.run("pack-lm")
    line = r"train-0000\d.tar: sample 'train\d+', a context of 4 and branches of \d+, 3: \d+ tokens and 1 documents, "
    assert str(refused.value).count("\n") == 0
    assert re.match(line + "and a row has room for 12 tokens and 4 documents; shorten", str(refused.value))


def test_what_the_rows_do_not_depend_on_leaves_them_fresh(packable):
    before = packable.table["pack-lm"].params
    data = {**EXPERIMENT["data"], "train": [{"dataset": "chats", "rate": 0.1}, {"dataset": "verses", "rate": 0.9}]}
    table = packable.configure(
        PARAMS, lm={**EXPERIMENT, "data": data, "model": {"width": 8, "heads": 2, "max_tokens": 40}}
    )
    assert table["pack-lm"].params == before
    for other in ({"documents_per_row": 5}, {"held_out": {"chats": "test"}}):
        table = packable.configure(PARAMS, lm={**EXPERIMENT, "data": {**EXPERIMENT["data"], **other}})
        assert table["pack-lm"].params != before


def test_variants_share_the_rows_unless_they_override_what_these_depend_on(project):
    variants = {"wide": {"set": {"model.width": 32}, "seeds": [1, 2]}, "long": {"set": {"model.max_tokens": 80}}}
    table = project.configure(PARAMS, lm={**EXPERIMENT, "variants": variants})
    assert [name for name in table.stages if name.startswith("pack")] == ["pack-lm", "pack-lm--long"]
    read = {name: stage.inputs["pack"] for name, stage in table.stages.items() if stage.kind == "train"}
    assert read["train-lm"] == read["train-lm--wide--1"] == read["train-lm--wide--2"] == "pack-lm"
    assert read["train-lm--long"] == "pack-lm--long"
    assert table["pack-lm--long"].settings["experiments/lm.yaml"] == ("data", "variants.long.set")
