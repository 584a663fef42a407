"""`glassworks ls` shows what a project has, without torch."""

import json
import subprocess
import sys


def test_data_sets_experiments_and_models_have_their_state(written, glassworks):
    written.run("fetch-words"), written.run("records-words")
    written.run_job("shards-words", 0), written.run_job("shards-words", 1)
    written.run("shards-words")
    found = json.loads(glassworks("ls", "--json"))
    [dataset], [experiment], [model] = found["datasets"], found["experiments"], found["models"]
    assert (dataset["name"], dataset["state"], dataset["samples"]["train"]) == ("words", "fresh", 1)
    assert dataset["bytes"] == sum(
        path.stat().st_size for path in (written.root / "data/shards/words").glob("*[0-9s].*")
    )
    assert (experiment["name"], experiment["state"], experiment["datasets"]) == ("lm_words", "missing", ["words"])
    assert (model["name"], model["state"], model["bytes"]) == ("models/lm_words", "missing", None)
    (written.root / "words/a.txt").write_text("another text")
    assert json.loads(glassworks("ls", "--json"))["datasets"][0]["state"] == "stale"
    [shards] = [one for one in json.loads(glassworks("status", "--json")) if one["stage"] == "shards-words"]
    assert shards == {"stage": "shards-words", "state": "stale", "directory": "data/shards/words", "kind": "shards"}


def test_scores_are_those_of_the_report(written, glassworks):
    folder = written.root / "results/lm_words/language"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"a": {"value": 0.5678, "low": 0.5, "high": 0.6}, "b": None}))
    tiles = [{"name": "a", "title": "Exact", "value": "/a", "scale": 100, "digits": 1, "unit": "%"}]
    tiles += [{"name": "b", "title": "None", "value": "/b"}]
    (folder / "labels.json").write_text(json.dumps({"unit": "texts", "tiles": tiles}))
    assert "language: Exact 56.8%" in glassworks("ls")
    [experiment] = json.loads(glassworks("ls", "--json"))["experiments"]
    assert experiment["scores"]["language"] == [{"title": "Exact", "value": 56.8, "unit": "%"}]


def test_listing_imports_no_torch(written):
    script = "import sys; sys.argv[1:] = ['ls']\nfrom glassworks.cli import app\ntry: app()\nexcept SystemExit: print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "lm_words" in run.stdout and run.stdout.endswith("False\n")
