"""The source code of a stage is computed: imports inside functions count, plumbing does not, and what a stage loads when it runs is in its closure."""

import ast
import json
import subprocess

import pytest

from glassworks.errors import ConfigError
from glassworks.pipeline.closure import PLUMBING, Closure, imported

from ..conftest import REPOSITORY
from ..small_pipeline import BIN, STAGES

SOURCE = REPOSITORY / "src"


def write(root, **modules):
    """A package `glassworks` with these modules."""
    for name, text in {"__init__": "", **modules}.items():
        path = root / "glassworks" / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_imports_inside_functions_count_and_those_for_type_checking_do_not():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import glassworks.types\nelse:\n    import glassworks.real\n"
        "def f():\n    from glassworks import lazy\n    import torch\n"
        "class C:\n    def g(self):\n        import glassworks.a.b as b\n"
    )
    assert imported(tree) == ["glassworks", "glassworks.a.b", "glassworks.lazy", "glassworks.real"]


def test_a_missing_module_is_one_line(tmp_path):
    with pytest.raises(
        ConfigError, match=r"src/glassworks/stages/fetch.py: no such file; run the command in the root of a clone"
    ):
        Closure(tmp_path / "src").files(["stages.fetch"])
    with pytest.raises(ConfigError, match=r"tasks/new/task.py: no such file; add it"):
        Closure(SOURCE).files(["tasks.new.task"])


def test_a_relative_import_is_refused():
    with pytest.raises(AssertionError, match="relative"):
        imported(ast.parse("from . import x"))


def test_packages_above_a_module_templates_beside_it_and_no_plumbing(tmp_path):
    source = write(
        tmp_path,
        entry="import glassworks.part.one\nimport glassworks.runtime.launch\nimport glassworks.errors",
        errors="",
        unused="",
        **{
            "part.__init__": "",
            "part.one": "",
            "part.two": "",
            "runtime.__init__": "",
            "runtime.launch": "import glassworks.unused",
        },
    )
    (tmp_path / "glassworks/part/templates").mkdir()
    (tmp_path / "glassworks/part/templates/page.html").write_text("")
    assert Closure(source).files(["entry"]) == (
        "__init__.py",
        "entry.py",
        "part/__init__.py",
        "part/one.py",
        "part/templates/page.html",
    )


def test_the_cache_of_imports_follows_the_content(tmp_path):
    source, cache = write(tmp_path, entry="import glassworks.one", one="", two=""), tmp_path / "cache.json"
    first = Closure(source, cache)
    assert "one.py" in first.files(["entry"])
    first.save()
    write(tmp_path, entry="import glassworks.two")
    assert Closure(source, cache).files(["entry"]) == ("__init__.py", "entry.py", "two.py")
    cache.write_text("not JSON")
    assert "two.py" in Closure(source, cache).files(["entry"])


@pytest.mark.parametrize(
    ("entries", "file"),
    [
        (["tasks.captioning.task"], "models/pretrained/begin_captioner.py"),
        (["tasks.captioning.task"], "models/pretrained/mapping.py"),
        (["sources.webdataset.source"], "data/reading/pixels.py"),
        (["stages.train"], "config/optimization.py"),
        (["stages.evaluate", "tasks.captioning.task"], "models/settings/captioner.py"),
    ],
)
def test_code_that_is_imported_late_and_settings_with_behaviour_are_in_the_key(entries, file):
    assert file in Closure(SOURCE).files(entries)


@pytest.mark.parametrize("entry", ["stages.train", "tasks.captioning.task", "tasks.language_modelling.task"])
def test_scores_settings_of_scores_and_the_report_retrain_nothing(entry):
    assert not [f for f in Closure(SOURCE).files([entry]) if f.startswith(("report/", "evaluation/", "runtime/"))]


RUN = """
import json, os, sys
from pathlib import Path
root, plumbing = Path(sys.argv[1]), tuple(sys.argv[2].split())
os.chdir(root)
import pandas, torch, torchvision, transformers  # once for all
from glassworks.cli.running import open_table, runner, set_instruction_set
from glassworks.pipeline.execution import rerun
set_instruction_set("native")

def files():
    package = str(root / "src/glassworks") + "/"
    loaded = {name: module.__file__ for name, module in list(sys.modules.items()) if getattr(module, "__file__", None)}
    return {name: file.removeprefix(package) for name, file in loaded.items() if file.startswith(package)}

table = open_table()
for stage in table:
    sys.stdout.flush()
    if os.fork() == 0:
        for name, file in files().items():  # what the command line has read is not the stage's doing
            if name != "glassworks" and not file.startswith(plumbing):
                del sys.modules[name]
        rerun(table, stage, runner(stage.kind), root / ".work/closure" / stage.name)
        print(json.dumps([stage.name, sorted(files().values())]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, stage.name
"""


def test_every_module_that_a_stage_loads_is_in_its_key(repository):
    """Each stage of the small pipeline runs where nothing of ours is loaded but plumbing; all that it loads must be in its closure or plumbing."""
    arguments = [BIN / "python", "-W", "ignore", "-c", RUN, str(repository.root), " ".join(PLUMBING)]
    run = subprocess.run(
        arguments, env=repository.environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    loaded = dict(json.loads(line) for line in run.stdout.splitlines() if line.startswith("["))
    assert loaded.keys() == set(STAGES)
    deps = _dependencies(repository.root)
    for stage, files in loaded.items():
        assert f"stages/{stage.partition('-')[0]}.py" in files
        missing = [file for file in files if file not in deps[stage] and not file.startswith(PLUMBING)]
        assert not missing, f"{stage} loads {missing}"


def _dependencies(root):
    """The source files of each stage as dvc.yaml has them."""
    import yaml

    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    prefix = "src/glassworks/"
    return {
        name: {file.removeprefix(prefix) for file in stage["deps"] if file.startswith(prefix)}
        for name, stage in stages.items()
    }
