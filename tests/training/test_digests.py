"""Digests of tensors, and logs that go on after a kill as if nothing had happened."""

import json
import os

import pytest
import torch

from glassworks.training.digests import DigestLog, tensor_digest
from glassworks.training.metrics_log import MetricsLog, read_metrics

WEIGHTS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1.5, dtype=torch.bfloat16)}


def write_digests(path, steps, resumed_step=0):
    log = DigestLog(path, resumed_step)
    for step in steps:
        log.write(step, ((name, tensor * step) for name, tensor in WEIGHTS.items()))
    log.close()


def test_a_digest_is_sixteen_hexadecimal_characters_of_dtype_shape_and_bytes():
    tensor = torch.arange(6.0)
    digest = tensor_digest(tensor)
    assert len(digest) == 16 and set(digest) <= set("0123456789abcdef")
    assert digest == tensor_digest(tensor.clone())
    others = [tensor.reshape(2, 3), tensor.view(torch.int32), tensor + 1e-6, tensor.double(), tensor.bfloat16()]
    assert len({digest, *map(tensor_digest, others)}) == 6


def test_a_digest_is_of_what_a_tensor_holds_not_of_how_it_lies_in_memory():
    tensor = torch.arange(6.0).reshape(2, 3)
    assert tensor_digest(tensor.T.contiguous().T) == tensor_digest(tensor)
    assert tensor_digest(torch.nn.Parameter(tensor)) == tensor_digest(tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int64, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 2)])
def test_every_dtype_and_shape_has_a_digest(dtype, shape):
    assert tensor_digest(torch.ones(shape, dtype=dtype)) != tensor_digest(torch.ones((*shape, 2), dtype=dtype))


def test_minus_zero_is_not_zero():
    assert tensor_digest(torch.tensor([0.0])) != tensor_digest(torch.tensor([-0.0]))


def test_a_row_holds_its_step_and_the_digests_by_name(tmp_path):
    write_digests(tmp_path / "digests.jsonl", [2])
    (line,) = (tmp_path / "digests.jsonl").read_text().splitlines()
    digests = {name: tensor_digest(tensor * 2) for name, tensor in WEIGHTS.items()}
    assert line == json.dumps({"step": 2, "digests": digests}, sort_keys=True)
    assert list(json.loads(line)["digests"]) == ["a", "b"]


def test_a_resumed_log_has_the_bytes_of_one_that_was_never_interrupted(tmp_path):
    write_digests(tmp_path / "whole", [2, 4, 6, 8])
    write_digests(tmp_path / "resumed", [2, 4, 6])  # the checkpoint is of step 5: 6 is written again
    with (tmp_path / "resumed").open("a") as file:
        file.write('{"digests": {"a": "0123')  # a kill cuts the last line
    write_digests(tmp_path / "resumed", [6, 8], resumed_step=5)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_run_from_the_beginning_forgets_the_log_of_the_one_before(tmp_path):
    write_digests(tmp_path / "digests.jsonl", [2, 4])
    write_digests(tmp_path / "digests.jsonl", [])
    assert (tmp_path / "digests.jsonl").read_bytes() == b""


def test_flushed_rows_are_on_disk_while_the_log_is_open(tmp_path):
    log = DigestLog(tmp_path / "digests.jsonl", 0)
    log.write(2, WEIGHTS.items())
    log.flush()
    assert [row["step"] for row in read_metrics(log.path)] == [2]
    log.close()


@pytest.mark.parametrize("log", [MetricsLog, DigestLog])
def test_dying_while_resuming_costs_no_row(tmp_path, monkeypatch, log):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        log(path, 1)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_metrics_keep_the_order_in_which_they_were_written(tmp_path):
    rows = [{"step": 2, "loss": 1.0}, {"step": 2, "validation_loss": 2.0}, {"step": 3, "loss": 0.5}]
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    for row in rows:
        log.write(row)
    log.close()
    assert read_metrics(log.path) == rows
