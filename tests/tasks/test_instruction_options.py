"""Every option of instruction tuning is read: changing it changes the key of a stage and, unless it only observes, the weights."""

import copy
import json
import sys
from typing import Any

import pytest
import torch

from glassworks.artifacts.digests import write_json
from glassworks.artifacts.manifest import MANIFEST
from glassworks.config.packing import Chat
from glassworks.config.project import parse_experiment
from glassworks.data.messages import parse_messages
from glassworks.data.reading.mixture import Part
from glassworks.data.reading.text import TextTokenizer
from glassworks.models.language_model import LanguageModel
from glassworks.models.quantisation import QuantisedLinear
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.runtime.signals import StopRequest
from glassworks.tasks.instruction.task import make
from glassworks.training.loop import METRICS, Run, fit
from glassworks.training.metrics_log import read_metrics
from glassworks.training.workers import Workers

from ..data.chats import CHATML, make_tokenizer
from ..training.engine import sha256, stage_run
from .test_instruction import BASE, PARAMS
from .test_packed_documents import LLAMA, Samples

TUNED: dict[str, Any] = {
    "task": "instruction",
    "data": {"dataset": "chats", "tokenizer": {"of": "base"}, "template": "chat.jinja"},
    "model": {"from": "base", "max_tokens": 128, "adapter": {"rank": 4}},
    "optimization": {"warmup_steps": 1, "learning_rate": 1e-2},
    "training": {"steps": 4, "batch_size": 4, "micro_batches": 2, "precision": "bf16"},
}
CHANGED: dict[str, dict[str, Any]] = {
    "data": {
        "supervise": "last",
        "too_long": "drop",
        "template": "other.jinja",
        "documents_per_row": 1,
        "new_tokens": ["<|new|>"],
        "options": {"loss_weight": 0.5},
    },
    "model.adapter": {
        "kind": "pissa",
        "rank": 2,
        "alpha": 8,
        "dropout": 0.5,
        "targets": ["q_proj", "v_proj"],
    },
    "model": {"base_dtype": "nf4", "max_tokens": 124},
    "optimization": {
        "optimizer": "SGD",
        "options": {"amsgrad": True},
        "learning_rate": 2e-3,
        "warmup_steps": 2,
        "schedule": "constant",
        "floor": 0.5,
        "weight_decay": 0.5,
        "betas": [0.5, 0.9],
        "eps": 1e-2,
        "clip_norm": 0.01,
        "groups": {"after": {"parameters": ["*.lora_B.*"], "learning_rate": 1e-1}},
    },
    "training": {
        "steps": 3,
        "batch_size": 8,
        "micro_batches": 4,
        "shuffle_window": 1,
        "precision": "fp32",
        "ema_decay": 0.5,
        "z_loss": 1e-2,
        "neftune": 5.0,
    },
}
"""Another value of every option that changes the weights, by the section of its key."""
ELSEWHERE = {
    "data": {"dataset", "train", "held_out", "tokenizer", "packing"},
    "optimization": {"start", "decay_steps"},
    "training": {"passes", "reduction", "compile", "validate_every", "selection", "digest_every"},
}
"""Options of another data set, of texts, of another schedule or number of workers, and of the observation of a run. The tests of these change them."""


def with_option(section: str, name: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(TUNED)
    inner = changed
    for part in section.split("."):
        inner = inner[part]
    inner[name] = value
    return changed


EVERY = [(section, name, value) for section, options in CHANGED.items() for name, value in options.items()]


def test_pain_14_every_option_is_changed_by_these_tests():
    experiment: Any = parse_experiment(TUNED, "tuned")
    sections = {
        "data": experiment.data,
        "model.adapter": experiment.model.adapter,
        "optimization": experiment.optimization,
        "training": experiment.training,
    }
    for section, settings in sections.items():
        fields = type(settings).model_fields.keys()
        assert CHANGED[section].keys() | ELSEWHERE.get(section, set()) == fields, section
    assert Chat.model_fields.keys() <= CHANGED["data"].keys()


def test_pain_14_every_option_changes_the_key_of_a_stage(project):
    for name in PARAMS["datasets"]:
        project.root.joinpath(name).mkdir()
    for name in ("chat.jinja", "other.jinja"):
        (project.root / name).write_text(CHATML)

    def parameters(experiment: dict[str, Any]) -> str:
        table = project.configure(PARAMS, base=BASE, tuned=experiment)
        return json.dumps([table[f"{kind}-tuned"].params for kind in ("pack", "train")], sort_keys=True, default=str)

    before = parameters(TUNED)
    assert parameters(copy.deepcopy(TUNED)) == before
    for section, name, value in EVERY:
        assert parameters(with_option(section, name, value)) != before, f"{section}.{name}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A trained model, its tokenizer, and a chat template."""
    folder = make_tokenizer(tmp_path_factory.mktemp("base"), CHATML)
    torch.manual_seed(0)
    shape = TextDecoder(width=32, depth=2, heads=4, max_tokens=128, **LLAMA)
    LanguageModel(shape, TextTokenizer(folder).size).save(folder)
    write_json(folder / MANIFEST, {"schema": 1, "counts": {}, "files": {}})
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def conversations() -> list[Any]:
    turns = [("user", "Fruit?"), ("assistant", "A pear."), ("user", "And?"), ("assistant", "An apple.")]
    return [
        parse_messages([{"role": role, "content": text * (1 + number % 3)} for role, text in turns[: 2 + number % 3 // 2 * 2]], "")
        for number in range(24)
    ]  # fmt: skip


def run_of(experiment: Any, base: Any, folder: Any) -> Run[Any, Any]:
    """The run that the stage makes, on conversations in memory."""
    task: Any = make(experiment, {"tokenizer": base, "pack": base, "start": base}, {})
    part = Part(task.arrange(Samples(conversations())), experiment.data.options, "")
    return stage_run(experiment, task, part, folder, base)


def test_pain_14_every_option_changes_the_weights(base, tmp_path, capsys):
    def trained(name: str, experiment: dict[str, Any]) -> str:
        return sha256(fit(run_of(parse_experiment(experiment, name), base, tmp_path / name), Workers(), StopRequest()))

    before = trained("before", TUNED)
    assert trained("again", TUNED) == before
    unread = [
        f"{section}.{name}"
        for section, name, value in EVERY
        if trained(f"{section}.{name}", with_option(section, name, value)) == before
    ]
    assert unread == ["data.too_long", "data.template"], "read by `pack`, see test_instruction"


def test_pain_15_training_of_4_bit_weights_needs_no_gpu_and_no_extra(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    settings = with_option("model", "base_dtype", "nf4")
    settings["training"]["steps"] = 12
    fitted = fit(run_of(parse_experiment(settings, "tuned"), base, tmp_path), Workers(), StopRequest())
    assert {parameter.device.type for parameter in fitted.model.parameters()} == {"cpu"}
    assert sum(isinstance(module, QuantisedLinear) for module in fitted.model.modules()) == 8
    losses = [row["loss"] for row in read_metrics(tmp_path / METRICS)]
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.1
