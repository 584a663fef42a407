"""The notebooks: stripped of outputs, without private names of the package, and run from top to bottom on the artefacts of `make all`."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from .small_pipeline import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
NEEDS = {
    "captioning": ("models/caption_scenes", "data/shards/scenes", "results/caption_scenes/captions"),
    "instruction_tuning": ("models/sft_smollm2", "data/weights/smollm2", "results/sft_smollm2/answers"),
    "language_model": ("models/lm_kjv", "results/lm_kjv/language"),
    "matryoshka": ("models/align_trimodal", "data/shards/spoken", "data/weights/minilm"),
    "recursive": (),
    "tri_modal": ("models/align_trimodal", "data/shards/spoken", "results/align_trimodal/concepts"),
    "vision_language": ("models/vlm_long", "data/shards/scene_questions", "results/vlm_long/questions"),
    "vision_text": ("models/align_openmoji", "data/shards/openmoji", "results/align_openmoji/concepts"),
}
"""The artefacts that each notebook reads."""
SECONDS = 120
"""Limit for a cell, on a busy machine."""


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_every_notebook_has_its_needs():
    assert [path.stem for path in NOTEBOOKS] == sorted(NEEDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_has_no_outputs(path):
    book = read(path)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert book.cells[0].cell_type == "markdown" and book.cells[0].source.startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_only(path):
    for cell in read(path).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            assert not [name for name in names if name.startswith("_")]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path):
    """An error in a cell fails. A warning of ours or of a library is an output on stderr, and fails, too. Indexes stay in the project, as artefacts do."""
    missing = [name for name in NEEDS[path.stem] if not (REPOSITORY / name / "manifest.json").is_file()]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not made: run `make all`")
    book = read(path)
    folder = str(REPOSITORY / "notebooks")
    NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    errors = [out.text for cell in code for out in cell.outputs if out.output_type == "stream" and out.name == "stderr"]
    assert errors == []
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 2
