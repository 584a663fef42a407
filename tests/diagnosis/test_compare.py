"""`glassworks compare`: where two runs part, said to a person."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from glassworks.artifacts.digests import write_json
from glassworks.diagnosis.compare import compare
from glassworks.errors import ArtifactError
from glassworks.training.digests import DigestLog
from glassworks.training.metrics_log import MetricsLog

NAMES = ("decoder.tokens.weight", "decoder.norm.weight", "encoder.stem.weight", "encoder.norm.bias")


def weights(step):
    return {name: torch.full((2, 3), float(step)) for name in NAMES}


def metrics(step):
    return {"loss": 5 / step, "gradient_norm": 1.0, "learning_rate": 0.1, "tokens": 100 + step, "samples": 8 * step}


def train(folder, steps=40, digest_every=10, weights=weights, metrics=metrics, publish=False, recipe=None):
    """A run: `weights` and `metrics` as functions of the step."""
    folder.mkdir()
    digests, log = DigestLog(folder / "digests.jsonl", 0), MetricsLog(folder / "metrics.jsonl", 0)
    for step in range(1, steps + 1):
        log.write({"step": step, **metrics(step)})
        if step % digest_every == 0:
            log.write({"step": step, "validation_loss": 6 / step})
            digests.write(step, weights(step).items())
    digests.close()
    log.close()
    if publish:
        save_file(weights(steps), folder / "model.safetensors")
    if recipe:
        write_json(folder / "recipe.json", recipe)
    return folder


@pytest.fixture
def one(tmp_path):
    return train(tmp_path / "one")


def changed_after(step, *names, by=1.0):
    """Weights that are others after `step`."""
    return lambda now: {
        name: tensor + by if now > step and name in names else tensor for name, tensor in weights(now).items()
    }


def changed_metrics(step, **values):
    return lambda now: {**metrics(now), **(values if now >= step else {})}


def test_equal_runs_are_equal(one, tmp_path):
    found = compare(one, train(tmp_path / "other"))
    assert found.equal
    assert found.lines == ["equal: 4 tensors at 4 steps (the last: 40), metrics of 40 steps"]


def test_the_step_and_the_first_tensor_of_a_parting_are_named(one, tmp_path):
    other = train(tmp_path / "other", weights=changed_after(17, "encoder.stem.weight", "decoder.tokens.weight"))
    found = compare(one, other)
    assert not found.equal
    assert found.lines[0] == (
        "the runs part after step 10 and at the latest at step 20; first tensor: decoder.tokens.weight (2 of 4 tensors differ)"
    )
    assert found.lines[1] == "metrics.jsonl: every number in both agrees (40 steps)"


def test_runs_that_differ_from_the_start_have_no_step_before(one, tmp_path):
    found = compare(one, train(tmp_path / "other", weights=changed_after(0, *NAMES)))
    assert found.lines[0] == (
        "the runs part at the latest at step 10, the first digested in both; first tensor: decoder.norm.weight (4 of 4 tensors differ)"
    )


def test_metrics_narrow_the_parting_down_to_a_step_and_a_column(one, tmp_path):
    other = train(
        tmp_path / "other",
        weights=changed_after(16, *NAMES),
        metrics=changed_metrics(17, loss=9.0, gradient_norm=1.5, samples=137, tokens=7),
    )
    found = compare(one, other)
    assert found.lines[0].startswith("the runs part after step 10 and at the latest at step 20")
    assert found.lines[1] == (
        f"metrics.jsonl: first difference at step 17: samples is 136 in {one}, 137 in {other}; tokens, loss, gradient_norm too; "
        "the same there: learning_rate"
    )


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ("tokens", "other data"),
        ("learning_rate", "schedule"),
        ("loss", "arithmetic"),
        ("gradient_norm", "backward pass"),
    ],
)
def test_the_column_is_a_clue_to_the_cause(one, tmp_path, column, hint):
    found = compare(one, train(tmp_path / "other", metrics=changed_metrics(33, **{column: 0.5})))
    assert not found.equal
    assert f"first difference at step 33: {column} is {metrics(33)[column]} in " in found.lines[0]
    assert found.lines[1].startswith(f"what {column} hints at: ") and hint in found.lines[1]
    assert found.lines[2] == "the weights agree at every step digested in both (the last: 40)"


def test_a_validation_row_is_compared_though_its_step_has_a_training_row(one, tmp_path):
    other = train(tmp_path / "other")
    text = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(text.replace('"validation_loss": 0.3}', '"validation_loss": 0.4}'))
    line = compare(one, other).lines[0]
    assert "first difference at step 20: validation_loss is 0.3 in " in line
    assert line.endswith("the same there: samples, tokens, learning_rate, loss, gradient_norm")


def test_a_column_of_one_run_only_is_no_difference(one, tmp_path):
    assert compare(one, train(tmp_path / "other", metrics=changed_metrics(1, scale=2.0))).equal


def test_tensors_of_one_run_only_are_counted_and_the_others_compared(one, tmp_path):
    def fewer(step):
        return {name: tensor for name, tensor in changed_after(20, *NAMES)(step).items() if "encoder" not in name}

    other = train(tmp_path / "other", weights=fewer)
    found = compare(one, other)
    assert not found.equal
    assert "at the latest at step 30; first tensor: decoder.norm.weight (2 of 2 tensors differ)" in found.lines[0]
    assert found.lines[1] == f"step 10: 2 of 4 tensors in {one} only, such as encoder.norm.bias"


def test_only_steps_digested_in_both_are_compared(one, tmp_path):
    other = train(tmp_path / "other", digest_every=4)
    assert not compare(one, train(tmp_path / "third", digest_every=4, weights=changed_after(30, *NAMES))).equal
    found = compare(one, other)
    assert found.equal
    assert found.lines == [
        "equal: 4 tensors at 2 steps (the last: 40), metrics of 40 steps",
        f"not digested at the same steps ({one}: 4 steps, 10 to 40; {other}: 10 steps, 4 to 40): "
        "only the 2 steps in both are compared",
    ]


@pytest.mark.parametrize(("digest_every", "digested"), [(41, "none"), (39, "1 steps, 39 to 39")])
def test_no_common_step_says_what_to_set(one, tmp_path, digest_every, digested):
    other = train(tmp_path / "other", digest_every=digest_every)
    with pytest.raises(ArtifactError, match="same digest_every in their training section") as error:
        compare(one, other)
    assert f"{one}: 4 steps, 10 to 40; {other}: {digested}" in str(error.value)


def test_a_shorter_run_is_equal_as_far_as_both_go(tmp_path):
    one, other = train(tmp_path / "one", publish=True), train(tmp_path / "other", steps=25, publish=True)
    found = compare(one, other)
    assert found.equal
    assert found.lines == [
        "equal: 4 tensors at 2 steps (the last: 20), metrics of 25 steps",
        f"{one} goes to step 40, {other} to step 25: compared as far as they go together",
    ]


def test_a_run_that_is_being_written_is_compared_up_to_its_last_whole_line(one, tmp_path):
    other = train(tmp_path / "other", steps=25)
    for name in ("metrics.jsonl", "digests.jsonl"):
        with (other / name).open("a") as file:
            file.write('{"step": 26, "lo')
    assert compare(one, other).equal


def test_differences_of_the_recipes_are_named(tmp_path):
    recipe = {
        "params": {"seed": 0, "optimization": {"learning_rate": 0.1, "betas": [0.9, 0.98]}},
        "code": "a" * 64,
        "inputs": {"shards/manifest.json": "b" * 64},
        "fingerprint": {"machine": "x86_64", "versions": {"torch": "2.12.1", "numpy": "2.4.6"}},
        "key": "c",
    }
    changed = {
        "params": {"seed": 0, "optimization": {"learning_rate": 0.2, "betas": [0.9, 0.98], "eps": 1e-8}},
        "code": "d" * 64,
        "inputs": {"shards/manifest.json": "e" * 64},
        "fingerprint": {"machine": "x86_64", "versions": {"torch": "2.11.0", "numpy": "2.4.6"}},
        "key": "f",
    }
    one, other = train(tmp_path / "one", recipe=recipe), train(tmp_path / "other", recipe=changed)
    assert compare(one, other).lines[1:] == [
        f"recipe: code: aaaaaaaaaaaa… in {one}, dddddddddddd… in {other}",
        f'recipe: fingerprint.versions.torch: "2.12.1" in {one}, "2.11.0" in {other}',
        f"recipe: inputs.shards/manifest.json: bbbbbbbbbbbb… in {one}, eeeeeeeeeeee… in {other}",
        f"recipe: params.optimization.eps: null in {one}, 1e-08 in {other}",
        f"recipe: params.optimization.learning_rate: 0.1 in {one}, 0.2 in {other}",
    ]


def test_equal_recipes_of_runs_that_differ_are_worth_a_line(tmp_path):
    recipe = {"params": {"seed": 0}, "code": "a", "inputs": {}, "fingerprint": None}
    one = train(tmp_path / "one", recipe=recipe)
    assert compare(one, train(tmp_path / "same", recipe=recipe)).lines[1:] == []
    other = train(tmp_path / "other", recipe=recipe, weights=changed_after(20, *NAMES))
    assert compare(one, other).lines[-1].startswith("the recipes are the same")


def test_published_weights_are_compared_byte_for_byte(tmp_path):
    one, other = train(tmp_path / "one", publish=True), train(tmp_path / "other", publish=True)
    found = compare(one, other)
    assert found.equal and found.lines[-1] == "model.safetensors: every byte is the same"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_published_weights_that_differ_after_the_last_digest_are_shown(tmp_path, dtype):
    def publish(folder, steps, by):
        final = {name: tensor.to(dtype) for name, tensor in weights(4).items()}
        final["decoder.tokens.weight"][1, 2] += by
        save_file(final, train(folder, steps=steps) / "model.safetensors")
        return folder

    found = compare(publish(tmp_path / "one", 43, 0), publish(tmp_path / "other", 43, 2))
    assert not found.equal
    assert found.lines[0] == (
        "every digest agrees, but model.safetensors differs; "
        "tensor decoder.tokens.weight: the first that differs (largest difference 2)"
    )


def test_weights_that_differ_in_form_or_not_at_all_are_told_apart(one, tmp_path):
    other = train(tmp_path / "other")

    def found(before, after, **header):
        save_file(before, one / "model.safetensors")
        save_file(after, other / "model.safetensors", header)
        return compare(one, other).lines[0].removeprefix("every digest agrees, but model.safetensors differs; ")

    half = {"a": torch.tensor([1.0, torch.inf])}
    assert found(half, {"a": torch.ones(3)}) == "tensor a: shape [2] and [3]"
    assert found(half, {"a": half["a"].bfloat16()}) == "tensor a: dtype F32 and BF16"
    assert found(half, {"a": half["a"].clone(), "b": torch.ones(1)}) == "tensor b: in one of the two only"
    assert found(half, half, note="x") == "its tensors are the same, its header is not"
    small = {"a": torch.ones(2, dtype=torch.float8_e4m3fn)}
    assert found(small, {"a": 2 * torch.ones(2).to(torch.float8_e4m3fn).float()}) == "tensor a: dtype F8_E4M3 and F32"
    assert found(small, {"a": torch.zeros(2).to(torch.float8_e4m3fn)}) == (
        "tensor a: the first that differs (dtype F8_E4M3)"
    )


def test_a_damaged_weight_file_is_one_line(tmp_path):
    one, other = train(tmp_path / "one", publish=True), train(tmp_path / "other", publish=True)
    (other / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"other/model.safetensors: not a safetensors file"):
        compare(one, other)


def test_a_missing_folder_is_one_line_with_the_remedy(one, tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere: no such folder; name a trained model \(models/NAME\)"):
        compare(one, tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["digests.jsonl", "metrics.jsonl"])
def test_a_missing_log_is_one_line_with_the_remedy(one, tmp_path, name):
    other = train(tmp_path / "other")
    (other / name).unlink()
    with pytest.raises(ArtifactError, match=rf"other: no {name}; .* must be trained again") as error:
        compare(one, other)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["digests.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize("row", ["{", "", "[1]", '{"step": "two"}', "\udcff"])
def test_a_row_that_cannot_be_read_is_named_by_its_line(one, name, row):
    lines = (one / name).read_text().splitlines()
    lines[1] = row
    (one / name).write_text("\n".join(lines) + "\n", errors="surrogateescape")
    with pytest.raises(ArtifactError, match=rf"one/{name}:2: not a JSON row with step"):
        compare(one, one)


def command(*arguments):
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "glassworks.cli", "compare", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    imported = {line.rsplit("|")[-1].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    errors = [line for line in run.stderr.splitlines() if not line.startswith("import time:")]
    return run.returncode, run.stdout.splitlines(), errors, imported


def test_the_command_ends_as_cmp_does_and_imports_no_torch(tmp_path):
    one, same = train(tmp_path / "one", publish=True), train(tmp_path / "same", publish=True)
    other = train(tmp_path / "other", publish=True, weights=changed_after(39, *NAMES))
    late = train(tmp_path / "late", publish=True, digest_every=50)

    code, output, errors, imported = command(one, same)
    assert (code, output, errors) == (0, compare(one, same).lines, [])
    code, output, errors, imported = command(one, other)
    assert (code, output, errors) == (1, compare(one, other).lines, [])
    assert "glassworks.diagnosis.compare" in imported and "torch" not in imported

    code, output, errors, _ = command(one, late)
    assert (code, output) == (4, []) and len(errors) == 1 and errors[0].startswith("error: no step is digested in both")


def test_comparing_published_weights_imports_no_torch(tmp_path):
    one, other = train(tmp_path / "one", publish=True), train(tmp_path / "other")
    save_file({name: tensor.bfloat16() for name, tensor in weights(41).items()}, other / "model.safetensors")
    code, output, _, imported = command(one, other)
    assert code == 1 and "dtype F32 and BF16" in output[0]
    assert "safetensors" in imported and "torch" not in imported
