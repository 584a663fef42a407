"""experiments/caption_flickr30k.yaml at its own scale: Flickr30k's exact layout, ViT-B/16 and GPT-2 in their real shapes with random weights, a few steps."""

import json

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ..small_pipeline import REPOSITORY

IMAGES = 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders in the hub's layouts: timm's, and GPT-2's, whose tokenizer_config.json names no special token."""
    from transformers import GPT2Config, GPT2LMHeadModel

    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    vit = timm.create_model("vit_base_patch16_224", pretrained=False)
    (root / "vit_base").mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in vit.state_dict().items()}, root / "vit_base/model.safetensors"
    )
    said = {"architecture": "vit_base_patch16_224", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (root / "vit_base/config.json").write_text(json.dumps(said))
    GPT2LMHeadModel(GPT2Config()).save_pretrained(root / "gpt2")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = {token: number for number, token in enumerate(alphabet)} | {"<|endoftext|>": 50256}
    tokenizer = Tokenizer(models.BPE(names, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(root / "gpt2/tokenizer.json"))
    (root / "gpt2/tokenizer_config.json").write_text('{"model_max_length": 1024}')
    return root


@pytest.fixture
def flickr(project, write_image, weights):
    rows = ["image_name| comment_number| comment"]
    for number in range(IMAGES):
        name = f"{1000092795 + number}.jpg"
        write_image(project.root / "flickr30k/flickr30k_images" / name, size=(50, 37), seed=number)
        rows += [f"{name}| {index}| Dog number {number} runs , seen by {index} ." for index in range(5)]
    (project.root / "flickr30k/results.csv").write_text("\n".join(rows) + "\n")
    experiment = yaml.safe_load((REPOSITORY / "experiments/caption_flickr30k.yaml").read_text())
    for group, start in (("decoder", 1), ("vision", 2)):  # a stage of the unfreezing for each step
        experiment["optimization"]["groups"][group] |= {"train_from": start, "warmup_steps": 0}
    experiment["optimization"] |= {"warmup_steps": 1, "learning_rate": 1e-4}
    experiment["training"] |= {
        "steps": 3,
        "batch_size": 2,
        "micro_batches": 2,
        "precision": "fp32",
        "validate_every": 3,
    }
    experiment["execution"] = {"checkpoint_every": 3, "keep_checkpoints": 1}
    experiment["evaluations"]["captions"] |= {"max_samples": 2, "beams": 2, "bootstrap": 100}
    experiment["model"]["max_tokens"] = 12
    return (
        project,
        experiment,
        {
            "datasets": {
                "flickr30k": {"source": "flickr30k", "path": "flickr30k", "splits": {"validation": 0.2, "test": 0.3}}
            },
            "weights": {name: {"source": "local", "path": str(weights / name)} for name in ("vit_base", "gpt2")},
        },
    )


@pytest.mark.slow
def test_the_documents_scale_runs_for_a_few_steps(flickr):
    project, experiment, params = flickr
    table = project.configure(params, caption_flickr30k=experiment)
    for stage in table:
        if stage.kind == "report":
            continue
        for job in range(stage.jobs):
            project.run_job(stage.name, job)
        project.run(stage.name)
    model = project.root / "models/caption_flickr30k"
    rows = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 3 and losses[2] < losses[0]
    rates = [
        [row[f"learning_rate.{group}"] > 0 for group in ("heads", "decoder", "vision")] for row in rows if "loss" in row
    ]
    assert rates == [[True, False, False], [True, True, False], [True, True, True]]
    counts = json.loads((model / "manifest.json").read_text())["counts"]
    assert 200e6 < counts["parameters"] < 260e6
    metrics = json.loads((project.root / "results/caption_flickr30k/captions/metrics.json").read_text())
    assert metrics["samples"] == 2 and metrics["systems"]["beam"]["cider"]["value"] >= 0
    references = json.loads(
        (project.root / "results/caption_flickr30k/captions/items.jsonl").read_text().splitlines()[0]
    )["references"]
    assert len(references) == 5


def test_the_file_as_it_is_committed_is_accepted_when_the_data_are_given(empty_repository, write_image, weights):
    root = empty_repository.root
    name = "caption_flickr30k.yaml"
    (root / "experiments" / name).write_text((REPOSITORY / "experiments" / name).read_text())
    write_image(root / "flickr30k/flickr30k_images/1.jpg")
    (root / "flickr30k/results.csv").write_text("image_name| comment_number| comment\n1.jpg| 0| A dog .\n")

    def change(params: dict) -> None:
        params["datasets"] = {"flickr30k": {"source": "flickr30k", "path": "flickr30k"}}
        params["weights"] = {name: {"source": "local", "path": str(weights / name)} for name in ("vit_base", "gpt2")}
        params["experiments"] = ["caption_flickr30k"]

    empty_repository.edit("params.yaml", change)
    shown = empty_repository.command("snakemake", "--dry-run", "all").stdout
    assert "Training caption_flickr30k" in shown and "Evaluating caption_flickr30k" in shown
