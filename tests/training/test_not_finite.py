"""NaN is injected at each place: it ends the run with one line, and is never published, resumed from, averaged, decoded or counted as the best."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glassworks.artifacts.digests import digest_json, sha256_file, write_json
from glassworks.artifacts.finite import check_finite, not_finite
from glassworks.config.training import Selection
from glassworks.errors import ArtifactError, DataError
from glassworks.generation.decoding import generate
from glassworks.generation.settings import Decoding
from glassworks.models.language_model import LanguageModel
from glassworks.models.saving import save_tensors
from glassworks.models.settings.text_decoder import TextDecoder
from glassworks.runtime.signals import StopRequest
from glassworks.training.loop import fit, make_trainer
from glassworks.training.metrics_log import read_metrics
from glassworks.training.task import Loss
from glassworks.training.validation import HeldOut, ValidationHistory, validate
from glassworks.training.workers import Workers

from .engine import train, train_until
from .objectives import Contrastive, Pairs, Refinement, Regression, a_run


class Gradient(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient * math.nan


class Spoiled(Regression):
    """A finite loss whose gradient is NaN for the micro-batch with sample 70 (step 4)."""

    def loss(self, model: Any, batch: Pairs, carry: tuple[Tensor, ...] = ()) -> Loss:
        loss = super().loss(model, batch, carry)
        return Loss(Gradient.apply(loss.total), loss.weight) if "70" in batch.keys else loss


class SpoiledTowers(Contrastive):
    """A finite coupled loss, and a NaN gradient of one embedding."""

    def embed(self, model: Any, batch: Pairs) -> dict[str, Tensor]:
        found = super().embed(model, batch)
        return {**found, "left": Gradient.apply(found["left"])} if "70" in batch.keys else found


class SpoiledPart(Refinement):
    """A term of the loss that is NaN while the total is finite."""

    def loss(self, model: Any, batch: Pairs, carry: tuple[Tensor, ...] = ()) -> Loss:
        loss = super().loss(model, batch, carry)
        if "70" in batch.keys:
            loss.parts["positive"] = (torch.tensor(math.nan), 1)  # type: ignore[index]
        return loss


class SpoiledValidation(Regression):
    """A validation loss that is not finite for one held-out sample."""

    def __init__(self, value: float = math.nan, key: str = "9") -> None:
        super().__init__()
        self.value, self.key = value, key

    def validate(self, model: Any, batch: Pairs) -> dict[str, tuple[float, float]]:
        found = super().validate(model, batch)
        return {"loss": (self.value, found["loss"][1])} if self.key in batch.keys else found


def checkpoints(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {path.name: load_file(path / "model.safetensors") for path in sorted((folder / "checkpoints").iterdir())}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("reduction", ["exact", "ddp", "fsdp2"])
def test_a_gradient_that_is_not_finite_ends_the_run_before_the_step(tmp_path, workers, reduction):
    if reduction != "exact" and workers == 1:
        pytest.skip("torch's reductions want a process group")
    message = (
        r"step 4: the loss is finite, but the norm of its gradient is nan \(inner.weight, inner.bias, .* and 5 more\)"
    )
    with pytest.raises(DataError, match=message):
        train(tmp_path, Spoiled(), workers=workers, reduction=reduction)
    assert list(checkpoints(tmp_path)) == ["step-00000003", "step-00000004"]
    assert all(not not_finite(tensors) for tensors in checkpoints(tmp_path).values())
    assert train(tmp_path, Regression(), workers=workers, reduction=reduction)["resumed"] == 4


def test_a_gradient_of_an_embedding_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(DataError, match=r"step 4: the loss is finite, but the norm of its gradient is nan \(left\."):
        train(tmp_path, SpoiledTowers())


def test_fp16_skips_steps_but_not_for_ever(tmp_path):
    """A NaN that does not come from the range of fp16 stays at any scale."""

    class Always(Regression):
        def loss(self, model: Any, batch: Pairs, carry: tuple[Tensor, ...] = ()) -> Loss:
            loss = super().loss(model, batch, carry)
            return Loss(Gradient.apply(loss.total), loss.weight)

    with pytest.raises(DataError, match="step 30: the loss is finite, but the norm of its gradient is nan"):
        train(tmp_path, Always(), precision="fp16", steps=100, selection={"publish": "last"})
    norms = [row["gradient_norm"] for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row]
    assert norms == [None] * len(norms), "these steps were skipped"


def test_a_term_of_the_loss_that_is_not_finite_is_named(tmp_path):
    with pytest.raises(DataError, match=r"step 4, micro-batch 3: the loss positive is nan; samples: 70, 71;"):
        train(tmp_path, SpoiledPart())


@pytest.mark.parametrize(
    ("workers", "value", "mode"),
    [(2, math.nan, "min"), *((1, value, mode) for value in (math.nan, math.inf, -math.inf) for mode in ("min", "max"))],
)
def test_a_validation_that_is_not_finite_names_step_and_samples_and_is_never_the_best(tmp_path, workers, value, mode):
    message = rf"step 3: validation_loss of the held-out data is {value}; samples: 8, 9, 10, 11; "
    settings = {"selection": {"publish": "best", "mode": mode, "patience": 1}}
    with pytest.raises(DataError, match=message):
        train(tmp_path, SpoiledValidation(value), workers=workers, **settings)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert not [row for row in rows if "validation_loss" in row]


def test_the_faulty_held_out_set_is_named(tmp_path):
    run = a_run(tmp_path, SpoiledValidation())
    trainer = make_trainer(run, Workers())
    held_out = HeldOut(3, run.held_out.read, {"kjv": range(2), "web": range(2, 3)})
    with pytest.raises(DataError, match="step 12: validation_loss of the held-out data of 'web' is nan"):
        validate(trainer.model, run.task, held_out, trainer.precision, Workers(), 12)


def test_held_out_data_without_a_target_is_named(tmp_path):
    class Blind(Regression):
        def validate(self, model: Any, batch: Pairs) -> dict[str, tuple[float, float]]:
            return {"loss": (0.0, 0)}

    with pytest.raises(DataError, match="step 3: the held-out data has no target"):
        train(tmp_path, Blind())


def test_a_row_of_an_older_log_that_is_not_finite_is_never_the_best():
    for mode, infinity in (("min", -math.inf), ("max", math.inf)):
        history = ValidationHistory(Selection(mode=mode, patience=2))
        for step, value in enumerate((2.0, math.nan, infinity)):
            history.add({"step": step, "validation_loss": value})
        assert (history.best_step, history.best, history.exhausted) == (0, 2.0 if mode == "min" else -2.0, True)


@pytest.mark.parametrize("steps", [4, 5], ids=["last step", "in between"])
@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}, {"selection": {"publish": "best"}}])
def test_weights_that_explode_are_neither_saved_nor_published(tmp_path, monkeypatch, steps, settings):
    """The step overflows after its gradient was checked, so that no loss shows it."""
    plain = torch.optim.AdamW.step

    def explode(optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        plain(optimizer, *arguments)
        if optimizer.state[optimizer.param_groups[0]["params"][0]]["step"] == 4:
            optimizer.param_groups[0]["params"][0].data[0, 0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", explode)
    run = a_run(tmp_path, Regression(), steps=steps, checkpoint_every=2, validate_every=100, **settings)
    run = run if steps == 5 else type(run)(**{**vars(run), "held_out": None})
    with pytest.raises(DataError, match=r"step 4: inner.weight.* NaN or infinite values; lower the learning rate"):
        fit(run, Workers(), StopRequest())
    assert list(checkpoints(tmp_path)) == ["step-00000002"]
    assert not not_finite(checkpoints(tmp_path)["step-00000002"])
    average = tmp_path / "checkpoints/step-00000002/average.safetensors"
    assert average.exists() == ("ema_decay" in settings)
    assert not average.exists() or not not_finite(load_file(average))


def test_a_saved_checkpoint_that_holds_nan_is_not_resumed_from(tmp_path, capfd):
    wanted = train(tmp_path / "straight", Regression())["sha256"]
    train_until(tmp_path / "run", 5, Regression())
    newest = tmp_path / "run/checkpoints/step-00000004"
    tensors = load_file(newest / "model.safetensors")
    tensors["inner.weight"][0, 0] = math.nan
    save_file(tensors, newest / "model.safetensors")
    state = json.loads((newest / "state.json").read_text())
    del state["digest"]
    state["files"]["model.safetensors"] = sha256_file(newest / "model.safetensors")
    write_json(newest / "state.json", {**state, "digest": digest_json(state)})
    found = train(tmp_path / "run", Regression())
    assert (found["sha256"], found["resumed"]) == (wanted, 3)
    assert "inner.weight in model.safetensors holds NaN or infinite values; falling back" in capfd.readouterr().err


def decoder() -> LanguageModel:
    torch.manual_seed(6)
    return LanguageModel(TextDecoder(width=32, depth=2, max_tokens=24, heads=2), 40).eval()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("half", [False, True])
def test_a_file_of_weights_that_holds_nan_is_refused_when_read_and_when_written(tmp_path, value, half):
    decoder().save(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[-1] = value
    if half:
        tensors[name] = tensors[name].bfloat16()
    with pytest.raises(ArtifactError, match=rf"model.safetensors: {name} holds NaN or infinite values; they are not"):
        save_tensors(tensors, file)
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match=rf"model.safetensors: {name} holds NaN or infinite values; use other"):
        LanguageModel.load(tmp_path)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 5}, {"beams": 3}])
def test_nan_is_not_decoded(settings):
    model = decoder()
    with torch.no_grad():
        model.decoder.blocks[0].attention.qkv.weight[0, 0] = math.nan
    with pytest.raises(DataError, match="the model gives NaN or infinite logits"):
        generate(model, [[1, 5]], Decoding(max_new_tokens=4, **settings), 2)


def test_finite_tensors_of_any_kind_pass():
    tensors = {"ids": torch.arange(3), "none": torch.empty(0), "half": torch.full((2,), 6e4).half()}
    assert not_finite(tensors) == []
    check_finite(tensors, "here")
    wrong = {f"t{index}": torch.tensor([1.0, math.nan]) for index in range(5)}
    with pytest.raises(ArtifactError, match=r"^here: t0, t1, t2 and 2 more hold NaN"):
        check_finite(tensors | wrong, "here")
