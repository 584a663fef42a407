"""`glassworks explain` names what makes a stage stale."""

import json
import shutil
import subprocess

import pytest
import yaml

from ..small_pipeline import REPOSITORY


@pytest.fixture
def made(written):
    """A project with source code of its own in git, whose records are made."""
    (written.root / "src").unlink()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "src/glassworks", written.root / "src/glassworks", ignore=ignored)
    for command in (("init", "--quiet"), ("add", "src"), ("commit", "--quiet", "-m", "code")):
        author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *author, *command], cwd=written.root, check=True)
    written.run("fetch-words"), written.run("records-words")
    return written


@pytest.fixture
def reasons(made, monkeypatch, glassworks):
    monkeypatch.setattr("glassworks.cli.running._is_another", lambda package: False)

    def explain(stage="records-words"):
        return json.loads(glassworks("explain", stage, "--json"))

    return explain


def test_a_fresh_stage_has_no_reason_and_a_cost(made, reasons, glassworks):
    found = reasons()
    assert (found["state"], found["reasons"], found["writes"]) == ("fresh", [], "data/records/words")
    assert found["reads"] == {"raw": "data/raw/words", "your files": "words"}
    note = json.loads((made.root / "provenance/records-words.json").read_text())
    assert found["last_run"]["seconds"] == note["seconds"]
    assert "of memory at most" in glassworks("explain", "records-words")


def test_a_changed_setting_is_named(made, reasons):
    content = yaml.safe_load((made.root / "params.yaml").read_text())
    content["datasets"]["words"]["unit"] = "line"
    (made.root / "params.yaml").write_text(yaml.safe_dump(content))
    assert reasons()["reasons"] == ["the setting unit was document, and is line"]
    assert reasons("fetch-words")["state"] == "fresh"


def test_a_changed_source_file_is_named(made, reasons):
    with (made.root / "src/glassworks/data/splits.py").open("a") as file:
        file.write("# more\n")
    [reason] = reasons()["reasons"]
    assert reason.startswith("the source file src/glassworks/data/splits.py changed since ")


def test_changed_files_of_the_user_are_named_and_later_stages_point_to_them(made, reasons):
    (made.root / "words/a.txt").write_text("another text")
    assert reasons("fetch-words")["reasons"] == ["the files in words changed"]
    assert reasons()["reasons"][0] == "its input fetch-words is stale; `glassworks explain fetch-words` says why"


def test_a_stage_that_never_ran_says_so(made, reasons, glassworks):
    found = reasons("train-lm_words")
    assert found["state"] == "missing" and found["reasons"][0] == "models/lm_words is not made yet"
    assert "did you mean 'train-lm_words'?" in glassworks("explain", "train-lm_word")
