"""What people wait for at every command starts without torch, whose import takes seconds."""

import subprocess
import sys
import tomllib

import pytest

from glassworks.generation.settings import Decoding
from glassworks.publishing.record import write_record

from .small_pipeline import REPOSITORY

WITH_ARGUMENTS = "import sys; sys.argv[0] = 'glassworks'; from glassworks.cli import main; main()"
"""The entry point as `glassworks` calls it."""


def torch_is_imported(code, *arguments, cwd):
    """Run code in a process of its own; whether torch was imported when it ended, and what it printed."""
    script = f"import atexit, sys\natexit.register(lambda: print('torch:', 'torch' in sys.modules))\n{code}"
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    *output, verdict = run.stdout.splitlines()
    assert verdict in ("torch: True", "torch: False")
    return verdict == "torch: True", "\n".join(output)


@pytest.fixture
def fetched(project):
    """A project with one artefact, of text files."""
    (project.root / "texts").mkdir()
    (project.root / "texts/captions.csv").write_text("file,caption\na.png,a square\n")
    (project.root / "texts/a.png").write_text("not looked into yet")
    project.configure({"datasets": {"texts": {"source": "folder", "path": "texts"}}})
    project.run("fetch-texts")
    return project


def test_help_imports_no_torch(tmp_path):
    imported, output = torch_is_imported(WITH_ARGUMENTS, "--help", cwd=tmp_path)
    assert "compare" in output and "verify" in output
    assert not imported


def test_the_list_of_commands_imports_neither_pydantic_nor_yaml(tmp_path):
    """They are more than half of its time."""
    heavy = "import atexit, sys\natexit.register(lambda: print('heavy:', {'pydantic', 'yaml', 'numpy'} & set(sys.modules)))\n"
    _, output = torch_is_imported(heavy + WITH_ARGUMENTS, "--help", cwd=tmp_path)
    assert "generate" in output and output.endswith("heavy: set()")


def test_commands_have_the_settings_of_decoding(tmp_path):
    """Their options are made when the command is called."""
    for verb in ("generate", "chat", "caption", "ask", "transcribe"):
        imported, output = torch_is_imported(WITH_ARGUMENTS, verb, "--help", cwd=tmp_path)
        assert not imported
        for setting in Decoding.model_fields:
            assert f"--{setting.replace('_', '-')} " in output, (verb, setting)


def test_verifying_an_artefact_imports_no_torch(fetched):
    imported, output = torch_is_imported(WITH_ARGUMENTS, "verify", "fetch-texts", cwd=fetched.root)
    assert "every digest is right" in output
    assert not imported


def test_verifying_a_published_folder_imports_no_torch(tmp_path):
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm/model.safetensors").write_bytes(b"weights")
    write_record(tmp_path / "lm", "lm", "train-lm", "0" * 64, {})
    imported, output = torch_is_imported(WITH_ARGUMENTS, "verify", "lm", cwd=tmp_path)
    assert "every digest is right" in output
    assert not imported


def test_asking_for_the_status_imports_no_torch(fetched):
    imported, output = torch_is_imported(WITH_ARGUMENTS, "status", cwd=fetched.root)
    assert "fetch-texts" in output
    assert not imported


def test_what_the_snakefile_imports_imports_no_torch(tmp_path):
    imported, _ = torch_is_imported("from glassworks.pipeline.snakefile import Pipeline", cwd=tmp_path)
    assert not imported


def test_torch_would_be_noticed(tmp_path):
    imported, _ = torch_is_imported("import torch", cwd=tmp_path)
    assert imported


@pytest.mark.parametrize(
    "module",
    [
        "stages.shards",
        "stages.records",
        "stages.fetch",
        "stages.tokenizer",
        "sources.webdataset.source",
        "sources.scenes.source",
    ],
)
def test_data_stages_import_no_torch(tmp_path, module):
    """Of small jobs there are many, on a cluster."""
    imported, _ = torch_is_imported(f"import glassworks.{module}", cwd=tmp_path)
    assert not imported


def test_defect_002_nothing_is_compiled_at_installation():
    """The document has CUDA kernels built by the installer. Here the package is Python, and torch compiles kernels when it runs."""
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]
    assert build["build-backend"] == "hatchling.build" and not any("cmake" in one for one in build["requires"])
    code = {
        file.suffix for file in (REPOSITORY / "src").rglob("*") if file.is_file() and "__pycache__" not in file.parts
    }
    assert ".py" in code and not code & {".c", ".cc", ".cpp", ".cu", ".h", ".pyx", ".so"}
