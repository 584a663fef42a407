"""The evaluation `answers`: greedy answers to held-out conversations, and what tuning forgot.

Systems are the model, the model asked the instruction of another conversation of the same kind, and its base: the weights with which its training began,
alone and after some training conversations.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from glassworks.data.reading.chat import ChatTemplate
from glassworks.data.reading.dataset import Sample, ShardDataset
from glassworks.data.reading.packing import PackedRows, Row
from glassworks.data.reading.rows import Samples
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import text_of
from glassworks.errors import ArtifactError, DataError
from glassworks.evaluation.answers.labels import labels
from glassworks.evaluation.answers.questions import (
    Question,
    examples,
    exchanged,
    is_exact,
    json_object,
    question_of,
    right_fields,
)
from glassworks.evaluation.answers.settings import AnswersEvaluation
from glassworks.evaluation.bootstrap import Interval, ratio_interval
from glassworks.evaluation.scoring import Item, Scoring
from glassworks.generation.decoding import generate
from glassworks.generation.settings import Decoding
from glassworks.generation.text import continuation
from glassworks.models.language_model import LanguageModel
from glassworks.models.losses import IGNORED
from glassworks.models.pretrained.language_models import load_base
from glassworks.training.objective import to_device

ROWS = 4
"""Packed rows whose losses are computed at a time."""


class ChatTask(Protocol):
    """A task whose models this evaluation can score."""

    tokenizer: TextTokenizer
    template: ChatTemplate

    def arrange(self, dataset: Samples, folder: Path | None = None) -> PackedRows:
        """The conversations and texts of a split as packed rows."""

    def collate(self, rows: list[Row]) -> Any:
        """A batch with `inputs`, `targets`, `token_weights` and `layout`."""


class First:
    """The first samples of a split (`Samples`)."""

    def __init__(self, dataset: ShardDataset, count: int) -> None:
        self.dataset, self.count = dataset, count
        begins = [end - size for end, size in zip(dataset.ends, dataset.shard_sizes, strict=True)]
        sizes = zip(begins, dataset.shard_sizes, strict=True)
        self.shard_sizes = [min(size, count - begin) for begin, size in sizes if begin < count]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index]


def run(scoring: Scoring, config: AnswersEvaluation, task: ChatTask, model: LanguageModel) -> int:
    """Answer the split with every system; returns the number of questions."""
    dataset, count = scoring.scored(config)
    samples = First(dataset, count)
    found = [question_of(samples[index]) for index in range(count)]
    questions = sorted((one for one in found if one is not None), key=lambda one: one.kind)  # examples are shared
    if len(questions) < 2:
        raise DataError(
            f"{dataset.directory}: {len(questions)} of its first {count} conversations end with a text; scoring needs at least 2"
        )
    texts = _texts(scoring, config)
    answers: dict[str, list[Item]] = {}
    losses: dict[str, np.ndarray] = {}
    nats: dict[str, np.ndarray] = {}
    for name in ("model", "base"):
        if name == "base":  # one model in memory at a time
            model.to("meta")
            model = load_base(scoring.inputs["model"], _base_folder(scoring)).eval().to(scoring.workers.device)
        answers[name] = _answers(scoring, config, task, model, questions, f"answers of the {name}")
        losses[name] = _losses(scoring, task, model, samples, f"conversations under the {name}")
        if texts is not None:
            nats[name] = _losses(scoring, task, model, texts, f"texts under the {name}", ends=False)[:, 0]
    if config.shots:
        shots = examples(scoring.training(), {one.kind for one in questions}, config.shots, scoring.seed)
        asked = [one.after(shots[one.kind]) for one in questions]
        answers["few_shot"] = _answers(scoring, config, task, model, asked, "few-shot answers", True)
    forgetting = None if texts is None else _forgetting(scoring, config, texts, nats["base"], nats["model"])
    if not scoring.workers.first:
        return len(questions)
    others = exchanged(questions, scoring.seed)
    answers["shuffled"] = [answers["model"][other] for other in others]
    groups = [samples[index].key if one is None else one.group for index, one in enumerate(found)]
    order = np.argsort([one.key for one in questions], kind="stable")
    metrics: dict[str, Any] = {
        "samples": len(questions),
        "without_text": count - len(questions),
        "split": config.split,
        "shots": config.shots,
        "systems": {
            name: {
                **_summary(questions, given, scoring.seed, config.bootstrap),
                **(
                    {"loss": _clustered(groups, losses[name], scoring.seed, config.bootstrap)} if name in losses else {}
                ),
            }
            for name, given in answers.items()
        },
        "forgetting": forgetting,
    }
    scoring.write(metrics, labels(metrics, config), (_item(questions[index], answers, index) for index in order))
    return len(questions)


def _base_folder(scoring: Scoring) -> Path:
    folder = scoring.inputs.get("weights") or scoring.inputs.get("start")
    if folder is None:
        raise ArtifactError(f"{scoring.inputs['model']}: the evaluation `answers` needs the weights it began with")
    return folder


def _answers(
    scoring: Scoring,
    config: AnswersEvaluation,
    task: ChatTask,
    model: LanguageModel,
    questions: Sequence[Question],
    unit: str,
    few_shot: bool = False,
) -> list[Item]:
    """The greedy answer to every question, and whether it ended by itself. A prompt that fills the context has no answer.

    With `few_shot`, questions of one kind begin with the same examples, which are computed once.
    """
    decoding = Decoding(max_new_tokens=config.max_new_tokens)
    context, ends = model.decoder.max_tokens, {*task.tokenizer.ends, task.template.stop}

    def answer(batch: range) -> list[Item]:
        found: list[Item] = [{"text": "", "ended": False} for _ in batch]
        prompts = [task.template.prompt(questions[index].messages, questions[index].tools) for index in batch]
        fitting = [place for place, prompt in enumerate(prompts) if len(prompt) < context]
        for part in _apart([questions[index].kind if few_shot else "" for index in batch], fitting):
            asked = [prompts[place] for place in part]
            equal = takewhile(lambda ids: len(set(ids)) == 1, zip(*asked, strict=False))
            shared = min(sum(1 for _ in equal), *(len(prompt) - 1 for prompt in asked))
            for place, ids in zip(part, generate(model, asked, decoding, ends, shared=shared), strict=True):
                room = min(config.max_new_tokens, context - len(prompts[place]))
                text = continuation(task.tokenizer, prompts[place], ids)
                found[place] = {"text": text, "ended": len(ids) < room}
        return found

    return scoring.in_batches(len(questions), config.batch_size, answer, unit)


def _apart(names: Sequence[str], places: Sequence[int]) -> list[list[int]]:
    """Places of one name together."""
    found: dict[str, list[int]] = {}
    for place in places:
        found.setdefault(names[place], []).append(place)
    return list(found.values())


def _losses(
    scoring: Scoring, task: ChatTask, model: LanguageModel, samples: Samples, unit: str, ends: bool = True
) -> np.ndarray:
    """float64 [documents, 2]: the weighted sum of the losses of every document in nats, and the sum of the weights. `ends` counts the end of a text."""
    rows = task.arrange(samples)

    @torch.inference_mode()
    def score(batch: range) -> list[Item]:
        collated = to_device(task.collate([rows[index] for index in batch]), scoring.workers.device)
        hidden = model.hidden(collated.inputs, *collated.layout)
        scored = collated.targets != IGNORED
        if not ends:
            scored &= collated.targets != task.tokenizer.eos
        targets = collated.targets[scored]
        losses = F.cross_entropy(model.decoder.logits(hidden[scored]).float(), targets, reduction="none")
        weights = torch.ones_like(losses) if collated.token_weights is None else collated.token_weights[scored]
        every = torch.zeros(*scored.shape, 2, dtype=torch.float64)
        every[scored.cpu()] = torch.stack([losses * weights, weights], dim=1).cpu().double()
        return [_by_document(rows.texts(index), sums.numpy()) for index, sums in zip(batch, every, strict=True)]

    sums = np.zeros((len(samples), 2))
    for row in scoring.in_batches(len(rows), ROWS, score, unit):
        np.add.at(sums, row["documents"], row["sums"])
    return sums


def _by_document(documents: np.ndarray, sums: np.ndarray) -> Item:
    """The documents of a row, and the sums [n, 2] of each. `sums` [T, 2] may be padded."""
    names, inverse = np.unique(documents, return_inverse=True)
    found = np.zeros((len(names), 2))
    np.add.at(found, inverse, sums[: len(documents)])
    return {"documents": names.tolist(), "sums": found.tolist()}


def _texts(scoring: Scoring, config: AnswersEvaluation) -> First | None:
    """The texts of which forgetting is scored. Raises `DataError` if there are fewer than two."""
    if not config.forgetting:
        return None
    dataset = ShardDataset(scoring.inputs["forgetting"], config.split, verify="first_touch")
    texts = First(dataset, min(len(dataset), config.forgetting_texts))
    if len(texts) < 2:
        raise DataError(
            f"{dataset.directory}: the {config.split} split has {len(texts)} texts; evaluations.forgetting needs at least 2"
        )
    return texts


def _forgetting(
    scoring: Scoring, config: AnswersEvaluation, texts: First, before: np.ndarray, after: np.ndarray
) -> dict[str, Any]:
    """Bits per byte of texts, and their difference, from the nats of each under the base and under the model."""
    sizes = [len(text_of(texts, index).encode()) for index in range(len(texts))]
    before, after = before / math.log(2), after / math.log(2)
    ratio = partial(ratio_interval, denominators=sizes, resamples=config.bootstrap, seed=scoring.seed)
    return {
        "dataset": config.forgetting,
        "texts": len(texts),
        "bytes": sum(sizes),
        "before": ratio(before),
        "after": ratio(after),
        "difference": ratio(after - before),
    }


def _summary(questions: Sequence[Question], answers: Sequence[Item], seed: int, resamples: int) -> dict[str, Any]:
    """Scores of a system over all questions and by kind, with intervals over the groups."""

    def share(numbers: Sequence[int], mark: Callable[[int], bool]) -> Interval:
        marks = np.array([(mark(number), 1) for number in numbers], np.float64)
        return _clustered([questions[number].group for number in numbers], marks, seed, resamples)

    def exact(number: int) -> bool:
        return is_exact(answers[number]["text"], questions[number].answer)

    kinds: dict[str, list[int]] = {}
    fields: dict[str, dict[int, bool]] = {}
    for number, one in enumerate(questions):
        kinds.setdefault(one.kind, []).append(number)
        if (true := json_object(one.answer)) is not None:
            for name, right in right_fields(answers[number]["text"], true).items():
                fields.setdefault(name, {})[number] = right
    every = range(len(questions))
    return {
        "exact": share(every, exact),
        "ended": share(every, lambda number: bool(answers[number]["ended"])),
        "kinds": {
            kind: {
                "questions": len(numbers),
                "exact": share(numbers, exact),
                "ended": share(numbers, lambda number: bool(answers[number]["ended"])),
            }
            for kind, numbers in kinds.items()
        },
        "fields": {name: share(list(right), right.__getitem__) for name, right in fields.items()},
    }


def _clustered(groups: Sequence[str], sums: np.ndarray, seed: int, resamples: int) -> Interval:
    """A ratio of sums [samples, 2] and its 95 % interval over groups, which are resampled whole."""
    names, inverse = np.unique(groups, return_inverse=True)
    found = np.zeros((len(names), 2))
    np.add.at(found, inverse, sums)
    return ratio_interval(found[:, 0], found[:, 1], resamples=resamples, seed=seed)


def _item(question: Question, answers: Mapping[str, Sequence[Item]], index: int) -> Item:
    """A question with its true answer and that of every system."""
    given = {name: some[index] for name, some in answers.items()}
    return {
        "key": question.key,
        "kind": question.kind,
        "question": question.text,
        "expected": [question.answer],
        **{name: one["text"] for name, one in given.items()},
        "marks": {
            name: {"right": is_exact(one["text"], question.answer), "ended": one["ended"]}
            for name, one in given.items()
        },
    }
