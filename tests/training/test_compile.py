"""torch.compile: nearly the same weights, and a resumed run has the same bytes although it compiles anew."""

import pytest
import torch
from safetensors.torch import load_file

from .engine import train, train_until
from .objectives import Regression


@pytest.fixture(autouse=True)
def new_compilers():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_trains_as_the_plain_one(tmp_path):
    """Without dropout, whose random numbers a compiled model draws in its own way."""
    for name in ("plain", "compiled"):
        train(tmp_path / name, Regression(dropout=0.0), compile=name == "compiled")
    plain, compiled = (
        load_file(tmp_path / name / "checkpoints/step-00000006/model.safetensors") for name in ("plain", "compiled")
    )
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_run_resumes_to_the_same_bytes_although_it_compiles_anew(tmp_path):
    straight = train(tmp_path / "straight", Regression(), compile=True)
    torch.compiler.reset()
    train_until(tmp_path / "killed", 5, Regression(), compile=True)
    torch.compiler.reset()
    assert train(tmp_path / "killed", Regression(), compile=True)["sha256"] == straight["sha256"]
