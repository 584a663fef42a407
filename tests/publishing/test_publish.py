"""`glassworks publish` and `glassworks verify FOLDER`: what others get, and what they can check."""

import json
import shutil
from pathlib import Path

import mlcroissant
import pyarrow.parquet as pq
import pytest
import torch
import transformers
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from rocrate.rocrate import ROCrate

from glassworks.artifacts.digests import sha256_file
from glassworks.models.language_model import LanguageModel
from glassworks.publishing.card import fenced
from glassworks.publishing.folder import publish
from glassworks.publishing.record import write_record

BOTH = pytest.mark.parametrize("name", ["lm", "captioner"])


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copied(folders, tmp_path):
    """The published language model as someone downloads it."""
    return shutil.copytree(folders["lm"], tmp_path / "downloaded")


@pytest.fixture
def changeable(trained, tmp_path, monkeypatch):
    """A copy of the project, in the current folder."""
    root = shutil.copytree(trained.root, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(root)
    return root


@torch.no_grad()
def test_transformers_opens_a_published_language_model(trained, folders):
    model, tokenizer = (
        kind.from_pretrained(folders["lm"]) for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)
    )
    ids = torch.tensor([tokenizer("line 7 of").input_ids])
    expected = LanguageModel.load(trained.root / "models/lm").eval()(ids)
    torch.testing.assert_close(model.eval()(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_glassworks_opens_a_published_captioner_elsewhere(trained, folders, tmp_path, monkeypatch, glassworks):
    shutil.copytree(folders["captioner"], tmp_path / "mine")
    shutil.copy(trained.root / "pictures/3.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    ours = glassworks("caption", trained.root / "models/captioner", "3.png")
    assert glassworks("caption", "mine", "3.png") == ours and "3.png" in ours


@BOTH
def test_publishing_twice_gives_the_same_bytes(here, folders, tmp_path, name):
    publish(here.table, name, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folders[name])
    assert not publish(here.table, name, tmp_path / "again").new
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_the_date_is_that_of_the_training_or_as_told(here, folders, tmp_path, monkeypatch):
    note = json.loads((here.root / "provenance/train-lm.json").read_text())
    date = json.loads((folders["lm"] / "glassworks.json").read_text())["facts"]["date"]
    assert date[:13] == note["started"][:13] and date >= note["started"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    publish(here.table, "lm", tmp_path / "dated")
    assert json.loads((tmp_path / "dated/glassworks.json").read_text())["facts"]["date"] == "1970-01-02T00:00:00Z"


def test_a_copied_folder_verifies_where_there_is_no_project(copied, tmp_path, monkeypatch, glassworks):
    monkeypatch.chdir(tmp_path)
    shown = glassworks("verify", "downloaded")
    assert "downloaded: lm, " in shown and "every digest is right" in shown
    assert "no project in the current folder, so only digests were checked" in shown


def test_verify_compares_with_the_model_of_the_project(here, copied, changeable, glassworks):
    assert "the trained model is that of models/lm, byte for byte" in glassworks("verify", copied)
    manifest = changeable / "models/lm/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert "models/lm is another training" in glassworks("verify", copied)
    shutil.rmtree(changeable / "models/lm")
    assert "models/lm is not trained here; `snakemake models/lm/manifest.json`" in glassworks("verify", copied)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "README.md", ".eval_results/language.yaml", "data/words/croissant.json"]
)
def test_one_flipped_byte_is_named(copied, tmp_path, monkeypatch, glassworks, file):
    monkeypatch.chdir(tmp_path)
    content = bytearray((copied / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / file).write_bytes(content)
    shown = glassworks("verify", "downloaded")
    assert f"error: downloaded/{file}: its sha256 is not the record's: the file was altered" in shown
    assert "downloaded is not as it was published; download it again" in shown


def test_missing_and_further_files_are_named_but_not_those_of_the_hub(copied, tmp_path, monkeypatch, glassworks):
    monkeypatch.chdir(tmp_path)
    (copied / ".gitattributes").write_text("*.safetensors filter=lfs")
    (copied / ".cache/huggingface/download").mkdir(parents=True)
    (copied / ".cache/huggingface/download/a.metadata").write_text("")
    assert "every digest is right" in glassworks("verify", "downloaded")
    (copied / "CITATION.cff").unlink()
    (copied / "modeling.py").write_text("")
    (copied / "config.json").write_text("{}")
    shown = glassworks("verify", "downloaded")
    assert "downloaded/CITATION.cff: missing" in shown and "downloaded/modeling.py: not in the record" in shown
    assert "downloaded/config.json: 2 bytes, the record says " in shown


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_record_that_leads_out_of_its_folder_is_refused(copied, glassworks, name):
    record = json.loads((copied / "glassworks.json").read_text())
    record["files"][name] = next(iter(record["files"].values()))
    (copied / "glassworks.json").write_text(json.dumps(record))
    assert glassworks("verify", copied).endswith(f"glassworks.json: names {name!r}, which is not inside the folder")


@pytest.mark.parametrize(
    ("content", "fault"),
    [("[", "not readable as JSON"), ("{}", "schema: Field required"), ("[1]", "Input should be")],
)
def test_a_damaged_record_is_one_line(copied, glassworks, content, fault):
    (copied / "glassworks.json").write_text(content)
    shown = glassworks("verify", copied)
    assert fault in shown and "download it again" in shown and shown.count("\n") == 0


def test_verify_says_what_is_no_published_folder(here, tmp_path, glassworks):
    assert "no glassworks.json there" in glassworks("verify", tmp_path)
    assert "there is no stage 'train-lmm'; did you mean 'train-lm'?" in glassworks("verify", "train-lmm")


def test_training_again_gives_the_same_folder(here, folders, glassworks):
    shown = glassworks("verify", folders["lm"], "--rerun")
    assert "trained again, every byte of the model is the same" in shown
    assert "written again, every byte is the same" in shown


def test_training_again_uses_the_recorded_settings_and_names_what_differs(changeable, copied, glassworks):
    experiment = changeable / "experiments/lm.yaml"
    experiment.write_text(experiment.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    assert "trained again, every byte of the model is the same" in glassworks("verify", copied, "--rerun")
    recipe = json.loads((copied / "training/recipe.json").read_text())
    recipe["params"]["optimization"]["learning_rate"] = 0.03  # the recipe of another training
    (copied / "training/recipe.json").write_text(json.dumps(recipe))
    record = json.loads((copied / "glassworks.json").read_text())
    write_record(copied, "lm", "train-lm", record["manifest"], record["facts"])
    shown = glassworks("verify", copied, "--rerun")
    assert "training again gives other bytes" in shown and "digests.jsonl: the first file that differs" in shown


def test_training_again_needs_the_same_data(changeable, copied, glassworks):
    manifest = changeable / "data/shards/words/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    shown = glassworks("verify", copied, "--rerun")
    assert "its input shards/manifest.json has another content in this project" in shown


@BOTH
def test_the_hub_reads_the_card_and_its_scores(here, folders, name):
    card = ModelCard.load(folders[name] / "README.md")
    [evaluation] = (folders[name] / "evaluations").iterdir()
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert card.data.license == "other" and card.data.model_name == name and card.data.eval_results
    scores = {result.metric_type: result for result in card.data.eval_results}
    if name == "lm":
        assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-generation"
        assert scores["bits_per_byte"].metric_value == round(metrics["bits_per_byte"]["value"], 3)
        assert "AutoModelForCausalLM" in card.text
        interval = metrics["bits_per_byte"]
        assert f"[{interval['low']:.3f}, {interval['high']:.3f}]" in card.text and "control: xz -9" in card.text
    else:
        assert card.data.library_name == "glassworks" and "glassworks caption captioner IMAGE" in card.text
    assert "Yours to state: glassworks does not know it" in card.text and "glassworks verify FOLDER" in card.text
    assert sha256_file(folders[name] / "model.safetensors") in card.text


@BOTH
def test_the_hub_reads_the_evaluation_results(folders, name):
    [file] = (folders[name] / ".eval_results").iterdir()
    entries = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    card = ModelCard.load(folders[name] / "README.md")
    expected = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert {entry.task_id.partition("/")[2]: entry.value for entry in entries} == expected
    assert all("test split" in entry.notes for entry in entries)


@pytest.mark.filterwarnings(
    "ignore:ConjunctiveGraph:DeprecationWarning", "ignore:The inplace keyword:DeprecationWarning"
)
@pytest.mark.parametrize(("name", "dataset"), [("lm", "words"), ("captioner", "pictures")])
def test_mlcroissant_reads_the_data_cards_and_the_records(trained, folders, name, dataset):
    table = f"data/records/{dataset}/records.parquet"
    file = folders[name] / f"data/{dataset}/croissant.json"
    card = mlcroissant.Dataset(file, mapping={table: trained.root / table})
    issues = card.metadata.ctx.issues
    assert not issues.errors and not issues.warnings
    assert card.metadata.name == dataset and card.metadata.license == ["Yours to state: glassworks does not know it"]
    [described] = [one for one in card.metadata.distribution if one.uuid == table]
    assert described.sha256 == sha256_file(trained.root / table)
    assert {one.uuid for one in card.metadata.distribution if one.uuid.endswith(".tar")} == {
        path.relative_to(trained.root).as_posix() for path in trained.root.glob(f"data/shards/{dataset}/*.tar")
    }
    expected = pq.read_table(trained.root / table).to_pylist()
    rows = list(card.records("records"))
    assert [row["records/key"].decode() for row in rows] == [row["key"] for row in expected]
    assert [[text.decode() for text in row["records/captions"]] for row in rows] == [
        row["captions"] for row in expected
    ]


@BOTH
def test_the_crate_has_what_its_profiles_require(folders, name):
    crate = ROCrate(folders[name])
    root, workflow = crate.root_dataset, crate.mainEntity
    profiles = {profile.id for profile in root["conformsTo"]}
    assert {f"https://w3id.org/ro/wfrun/{part}/0.5" for part in ("process", "workflow")} < profiles
    assert "https://w3id.org/workflowhub/workflow-ro-crate/1.0" in profiles
    assert all(root[term] for term in ("name", "description", "datePublished", "license"))
    assert set(workflow.type) == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
    assert workflow["programmingLanguage"].type == "ComputerLanguage" and workflow["name"]
    action = root["mentions"]
    assert action.type == "CreateAction" and action["instrument"] is workflow and action["endTime"] and action["name"]
    made = {entity.id for entity in action["result"]}
    assert "model.safetensors" in made and any(one.startswith("evaluations/") for one in made)
    for entity in (*action["object"], *action["result"]):
        parameter = entity["exampleOfWork"]
        assert parameter.type == "FormalParameter" and parameter["additionalType"]
        assert parameter in [*workflow["input"], *workflow["output"]]
    files = {entity.id: entity["sha256"] for entity in root["hasPart"]}
    bare = contents(folders[name]).keys() - {"glassworks.json", "ro-crate-metadata.json"}
    assert files == {file: sha256_file(folders[name] / file) for file in bare}


def test_the_citation_names_the_authors_of_the_project(folders):
    citation = yaml.safe_load((folders["lm"] / "CITATION.cff").read_text())
    assert citation["authors"] == [{"family-names": "Lovelace", "given-names": "Ada"}]
    assert citation["identifiers"][0]["value"].startswith("sha256:")


def test_a_stated_licence_is_in_every_file_that_has_one(here, tmp_path, glassworks):
    glassworks("publish", "lm", tmp_path / "out", "--license", "CC-BY-4.0")
    assert ModelCard.load(tmp_path / "out/README.md").data.license == "cc-by-4.0"
    assert yaml.safe_load((tmp_path / "out/CITATION.cff").read_text())["license"] == "CC-BY-4.0"
    assert ROCrate(tmp_path / "out").root_dataset["license"].id == "https://spdx.org/licenses/CC-BY-4.0"


def test_texts_of_a_model_cannot_leave_their_fence():
    assert fenced("a\n```\n# heading\n````\n") == "`````text\na\n```\n# heading\n````\n`````"


def test_what_cannot_be_published_is_refused_in_one_line(here, tmp_path, glassworks):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    refused = {
        ("lmm", tmp_path / "a"): "lmm: the project has no experiment of this name; did you mean 'lm'?",
        ("lm", tmp_path / "mine"): "mine: holds files that `glassworks publish` did not write; choose a new folder",
        ("lm", tmp_path / "mine/thesis.txt"): "thesis.txt: a file; choose a new folder",
        ("lm", "models/captioner"): "models/captioner: holds files that `glassworks publish` did not write",
    }
    for arguments, line in refused.items():
        shown = glassworks("publish", *arguments)
        assert shown.startswith("error: ") and line in shown and shown.count("\n") == 0
    assert contents(tmp_path) == {"mine/thesis.txt": b"mine"}


def test_what_is_missing_or_altered_is_named_with_its_command(changeable, tmp_path, glassworks):
    scores = changeable / "results/lm/language"
    recipe = json.loads((scores / "recipe.json").read_text())
    (scores / "recipe.json").write_text(json.dumps({**recipe, "inputs": {"model/manifest.json": "0" * 64}}))
    assert "these are scores of another model than models/lm" in glassworks("publish", "lm", tmp_path / "out")
    shutil.rmtree(scores)
    shown = glassworks("publish", "lm", tmp_path / "out")
    assert "results/lm/language: not made yet; make it with `snakemake results/lm/language/manifest.json`" in shown
    weights = changeable / "models/lm/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert "model.safetensors: its sha256 is not the manifest's" in glassworks("publish", "lm", tmp_path / "out")
    shutil.rmtree(changeable / "models/lm")
    shown = glassworks("publish", "lm", tmp_path / "out")
    assert "models/lm: not made yet; make it with `snakemake models/lm/manifest.json`" in shown
    assert not (tmp_path / "out").exists()


def test_data_that_the_project_no_longer_has_is_named(changeable, tmp_path, glassworks):
    manifest = changeable / "data/shards/words/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    shown = glassworks("publish", "lm", tmp_path / "out")
    assert (
        "data/packs/lm: made from shards with the manifest" in shown and "`snakemake models/lm/manifest.json`" in shown
    )


def test_another_publication_is_replaced_only_by_force(here, folders, tmp_path, glassworks):
    shutil.copytree(folders["captioner"], tmp_path / "out")
    assert "holds another publication, or an altered one; --force replaces it" in glassworks(
        "publish", "lm", tmp_path / "out"
    )
    assert contents(tmp_path / "out") == contents(folders["captioner"])
    assert "lm published" in glassworks("publish", "lm", tmp_path / "out", "--force")
    assert contents(tmp_path / "out") == contents(folders["lm"])
    (tmp_path / "out/README.md").write_text("mine")
    assert "--force replaces it" in glassworks("publish", "lm", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_project_without_the_extra_is_told_what_to_install(here, tmp_path, monkeypatch, glassworks):
    monkeypatch.setattr("glassworks.publishing.folder.PACKAGES", ("mlcroissant", "no_such_package"))
    shown = glassworks("publish", "lm", tmp_path / "out")
    assert shown.endswith("needs no_such_package; install the extra: pip install 'glassworks[publish]'")


def test_nothing_of_this_machine_is_in_a_published_folder(trained, folders):
    for folder in folders.values():
        for name, content in contents(folder).items():
            assert str(trained.root).encode() not in content, name
            assert str(Path.home()).encode() not in content, name


def test_the_pipeline_has_every_stage_and_no_absolute_path(folders):
    stages = json.loads((folders["lm"] / "training/pipeline.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == [
        "fetch-words",
        "records-words",
        "shards-words",
        "tokenizer-lm",
        "pack-lm",
        "train-lm",
        "evaluate-lm-language",
    ]
    assert stages[0]["params"]["path"] == "words"
