"""`glassworks verify`: digests, a second run byte for byte, and an author's vouching."""

import hashlib
import json
import shutil

from safetensors.numpy import load_file, save_file


def flip(path, position=-1):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.unlink()  # never write through a link into DVC's cache
    path.write_bytes(content)


def test_verify_passes_on_what_a_run_made(repository):
    assert repository.command("glassworks", "verify").stdout.count("every digest is right") == 7


def test_one_flipped_byte_is_named(repository):
    flip(repository.root / "data/shards/pictures/train-00000.tar", 700)
    run = repository.command("glassworks", "verify", succeeds=False)
    assert run.returncode == 4
    assert "data/shards/pictures/train-00000.tar: its sha256 is not the manifest's" in run.stdout


def test_running_a_stage_again_gives_the_same_bytes(repository):
    before = repository.manifests()
    run = repository.command(
        "glassworks",
        "verify",
        "--rerun",
        "shards-pictures",
        "tokenizer-tiny",
        "train-tiny",
        "evaluate-tiny-captions",
        "report",
    )
    assert run.stdout.count("every byte is the same") == 5
    assert repository.manifests() == before


def test_a_row_of_the_leaderboard_is_made_again(repository):
    rows = json.loads(repository.command("glassworks", "leaderboard", "--json").stdout)
    row = rows[0]
    assert (row["experiment"], row["evaluation"], row["score"]) == ("tiny", "captions", "CIDEr-D")
    for folder in ("models", "results"):
        shutil.rmtree(repository.root / folder)
    assert repository.snakemake("results/tiny/captions/manifest.json") == {"train-tiny", "evaluate-tiny-captions"}
    assert hashlib.sha256((repository.root / "models/tiny/model.safetensors").read_bytes()).hexdigest() == row["sha256"]
    again = json.loads(repository.command("glassworks", "leaderboard", "--json").stdout)
    assert [{**one, "seconds": row["seconds"], "commit": row["commit"]} for one in again] == rows
    metrics = json.loads((repository.root / "results/tiny/captions/metrics.json").read_text())
    found = metrics["systems"]["beam"]["cider"]
    assert [row["value"], row["low"], row["high"]] == [found["value"] * 100, found["low"] * 100, found["high"] * 100]
    page = repository.root / "leaderboard.md"
    repository.command("glassworks", "leaderboard", "--write", page.name)
    line = next(line for line in page.read_text().splitlines() if line.startswith("| tiny |"))
    assert row["sha256"][:16] in line and f"{row['value']:.1f}" in line and again[0]["commit"][:16] in line
    repository.edit("experiments/tiny.yaml", lambda e: e["training"].update(steps=5))
    stale = repository.command("glassworks", "leaderboard")
    assert stale.stdout == "left out: tiny, captions (stale); make it first\n"


def test_a_difference_is_traced_to_the_first_tensor(repository):
    import json

    from glassworks.artifacts.manifest import describe

    model = repository.root / "models/tiny"
    tensors = load_file(model / "model.safetensors")
    tensors["decoder.norm.weight"] = tensors["decoder.norm.weight"] + 0.5
    (model / "model.safetensors").unlink()
    save_file(tensors, model / "model.safetensors")
    counts = json.loads((model / "manifest.json").read_text())["counts"]
    (model / "manifest.json").unlink()
    (model / "manifest.json").write_text(json.dumps(describe(model, counts).as_json(), sort_keys=True, indent=1))
    run = repository.command("glassworks", "verify", "--rerun", "train-tiny", succeeds=False)
    assert run.returncode == 4
    assert "model.safetensors: the first file that differs" in run.stdout
    assert "tensor decoder.norm.weight: the first that differs (largest difference 0.5)" in run.stdout


def test_accepting_a_change_of_code_reruns_nothing_and_says_so(repository):
    with (repository.root / "src/glassworks/training/step.py").open("a") as file:
        file.write("\n# a refactoring\n")
    assert "train-tiny" in repository.pending()
    before = repository.manifests()
    repository.command("glassworks", "accept", "train-tiny")
    assert repository.pending() == {"report"}  # it shows how everything was made
    assert repository.repro() == {"report"}
    assert repository.pending() == set()
    assert repository.manifests().keys() == before.keys()
    assert all(repository.manifests()[name] == before[name] for name in before if "report" not in name)
    assert '"accepted"' in (repository.root / "provenance/train-tiny.json").read_text()
