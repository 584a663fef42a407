"""A language model is trained and scored by its stages; its bits per byte are those of its probabilities, and baselines know nothing of it."""

import gzip
import json
import math
import shutil

import numpy as np
import pytest
import torch

from glassworks.data.reading.dataset import ShardDataset
from glassworks.data.reading.text import TextTokenizer
from glassworks.data.reading.tokens import Tokens, all_texts
from glassworks.evaluation.language.baselines import bigram_bits, compressed_bits_per_byte
from glassworks.models.language_model import LanguageModel

PARAMS = {
    "datasets": {
        "pictures": {
            "source": "folder",
            "path": "pictures",
            "splits": {"validation": 0.2, "test": 0.4},
            "samples_per_shard": 8,
        }
    }
}


def experiment(kind: str, packing: str) -> dict:
    tokenizer = {"vocab_size": 280} if kind == "bpe" else {"kind": kind}
    return {
        "task": "language_modelling",
        "data": {"dataset": "pictures", "tokenizer": tokenizer, "packing": packing},
        "model": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 24},
        "optimization": {"warmup_steps": 1},
        "training": {"steps": 3, "batch_size": 2, "micro_batches": 2, "validate_every": 2},
        "evaluations": {"language": {"prompts": ["", "a"], "temperatures": [0, 1], "new_tokens": 5, "bootstrap": 100}},
    }


@pytest.fixture
def trained(project, write_image, request):
    folder = project.root / "pictures"
    for number in range(30):
        write_image(folder / f"{number}.png", seed=number)
    words = ["a red one", "a blue other with more words", "this, and 3 that", "äöü"]
    rows = "".join(f'{number}.png,"{words[number % 4]} {number}"\n' for number in range(30))
    (folder / "captions.csv").write_text("file,caption\n" + rows)
    project.configure(PARAMS, lm=experiment(*request.param))
    for stage in ("fetch-pictures", "records-pictures"):
        project.run(stage)
    for job in range(project.table["shards-pictures"].jobs):
        project.run_job("shards-pictures", job)
    for stage in ("shards-pictures", "tokenizer-lm", "pack-lm", "train-lm", "evaluate-lm-language"):
        project.run(stage)
    return project


@pytest.mark.parametrize("trained", [("bpe", "documents")], indirect=True)
def test_bits_per_byte_are_those_of_the_models_probabilities(trained):
    root = trained.root
    metrics = json.loads((root / "results/lm/language/metrics.json").read_text())
    tokenizer = TextTokenizer(root / "models/lm")  # published beside the model
    model = LanguageModel.load(root / "models/lm").eval()
    texts = list(all_texts(ShardDataset(root / "data/shards/pictures", "test")))
    bits = tokens = 0
    for text in texts:
        [ids] = tokenizer.encode_all([text])
        for start in range(0, len(ids) - 1, 24):  # longer texts than a row are cut
            part = torch.tensor([ids[start : start + 25]])
            with torch.no_grad():
                found = model(part[:, :-1])[0].log_softmax(-1)
            bits -= found.gather(1, part[0, 1:, None]).sum().item() / math.log(2)
            tokens += part.shape[1] - 1
    size = sum(len(text.encode()) + 1 for text in texts)
    assert metrics["bits_per_byte"]["value"] == pytest.approx(bits / size, rel=1e-4)
    assert metrics["perplexity"]["value"] == pytest.approx(2 ** (bits / tokens), rel=1e-4)
    assert (metrics["bytes"], metrics["tokens"], metrics["samples"]) == (size, tokens, len(texts))
    joined = "".join(f"{text}\n" for text in texts).encode()
    assert metrics["baselines"]["gzip -9"] == pytest.approx(8 * len(gzip.compress(joined, 9)) / size, abs=1e-4)
    rows = [json.loads(line) for line in (root / "results/lm/language/items.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["temperature"]) for row in rows] == [("", 0), ("a", 0), ("", 1), ("a", 1)]


@pytest.mark.parametrize("trained", [("characters", "stream")], indirect=True)
def test_a_stream_of_characters_is_scored_too(trained):
    metrics = json.loads((trained.root / "results/lm/language/metrics.json").read_text())
    assert metrics["bits_per_byte"]["low"] < metrics["bits_per_byte"]["value"] < metrics["bits_per_byte"]["high"]
    tokenizer = TextTokenizer(trained.root / "models/lm")
    [text, *_] = all_texts(ShardDataset(trained.root / "data/shards/pictures", "train"))
    assert tokenizer.decode(tokenizer.encode(text, 99)[1:]) == text
    assert len(tokenizer.encode(text, 99)) == len(text) + 2


def test_a_bigram_model_gives_every_token_a_share():
    """Its probabilities after any token add up to one, seen or not."""
    training = Tokens(np.array([0, 3, 3, 1, 0, 2, 3, 1], np.int32), np.array([4, 8]))
    for before in range(5):
        bits = [
            bigram_bits(training, Tokens(np.array([before, after], np.int32), np.array([2])), 5) for after in range(5)
        ]
        assert sum(2**-value for value in bits) == pytest.approx(1)
    assert bigram_bits(training, training, 5) < 8 * math.log2(5)


def test_compressors_are_given_nothing_but_the_text():
    assert compressed_bits_per_byte(b"a" * 100_000)["gzip -9"] < 0.02
    assert compressed_bits_per_byte(np.random.default_rng(0).bytes(10_000))["xz -9"] > 8


@pytest.mark.parametrize("trained", [("bpe", "documents")], indirect=True)
def test_any_number_of_workers_scores_to_the_same_bytes(trained):
    manifest = trained.root / "results/lm/language/manifest.json"
    one = manifest.read_bytes()
    for workers in (2, 3):
        shutil.rmtree(manifest.parent)
        trained.run("evaluate-lm-language", workers=workers)
        assert manifest.read_bytes() == one
        assert json.loads((trained.root / "provenance/evaluate-lm-language.json").read_text())["workers"] == workers


@pytest.mark.parametrize("trained", [("bpe", "documents")], indirect=True)
def test_two_workers_train_the_same_bytes(trained):
    manifest = trained.root / "models/lm/manifest.json"
    one = manifest.read_bytes()
    shutil.rmtree(trained.root / "models/lm")
    trained.run("train-lm", threads=2)
    assert manifest.read_bytes() == one
    assert json.loads((trained.root / "provenance/train-lm.json").read_text())["workers"] == 2
