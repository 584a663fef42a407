"""Adapters leave the project as peft, transformers and users expect them, and come back: each test is a fault that other tools have had."""

import json
import shutil

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from glassworks.artifacts.digests import sha256_file, write_json
from glassworks.artifacts.manifest import MANIFEST
from glassworks.data.messages import Message
from glassworks.data.reading.text import TextTokenizer
from glassworks.errors import ArtifactError, ConfigError
from glassworks.generation.settings import Decoding
from glassworks.inference.export import run
from glassworks.inference.generate import Writer
from glassworks.inference.language_models import open_language_model
from glassworks.models.adapters import CONFIG, WEIGHTS, LoraLinear
from glassworks.models.pretrained.language_models import load_language_model
from glassworks.models.pretrained.published_adapters import publish_adapter

from .instructed import BEGIN, END, STOP, TEMPLATE, write_adapter, write_base

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
"""peft calls what transformers deprecates."""
IDS = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(3))
BASES = {
    "llama": {},
    "qwen2": {"biases": "qkv", "tied": False},
    "gpt2": {"position": "learned", "norm": "layer", "feed_forward": "gelu_tanh", "biases": "all", "kv_heads": None},
}
PROMPTS = ["in the", "word", "count 12"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with published weights and an adapter of them: data/weights/base and models/tuned."""
    monkeypatch.chdir(tmp_path)

    def make(base="llama", **settings):
        folder = write_base(tmp_path / "data/weights/base", **BASES[base])
        return write_adapter(tmp_path / "models/tuned", folder, load_language_model(folder), **settings), folder

    return make


@torch.no_grad()
def logits(model):
    found = model.eval()(IDS)
    return getattr(found, "logits", found)


def assert_equal(found, expected):
    """Equal to 1e-5 of the largest logit."""
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def published(base):
    return transformers.AutoModelForCausalLM.from_pretrained(base)


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("llama", "lora"),
        ("llama", "dora"),
        ("llama", "pissa"),
        ("qwen2", "rslora"),
        ("qwen2", "dora"),
        ("gpt2", "lora"),
        ("gpt2", "dora"),
    ],
)
def test_peft_loads_an_exported_adapter_onto_the_published_model_with_equal_logits(project, tmp_path, base, kind):
    adapter, folder = project(base, kind=kind)
    run(adapter, tmp_path / "out", tmp_path, "adapter")
    theirs = PeftModel.from_pretrained(published(folder), tmp_path / "out")
    ours = open_language_model(adapter, tmp_path)
    assert any(isinstance(module, LoraLinear) for module in ours.model.modules())
    assert_equal(logits(theirs), logits(ours.model))
    names = set(load_file(tmp_path / "out" / WEIGHTS))
    first = (
        "base_model.model.transformer.h.0.attn.c_attn"
        if base == "gpt2"
        else "base_model.model.model.layers.0.self_attn.q_proj"
    )
    assert f"{first}.lora_A.weight" in names
    back = open_language_model(tmp_path / "out", tmp_path, folder)
    assert_equal(logits(back.model), logits(ours.model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("base", "targets"), [("llama", None), ("qwen2", ("q_proj", "v_proj")), ("qwen2", ("up_proj",)), ("gpt2", None)]
)
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_logits_and_gradients_are_those_of_peft_on_the_published_model(project, tmp_path, base, kind, targets):
    adapter, folder = project(base, kind=kind, targets=targets)
    run(adapter, tmp_path / "out", tmp_path, "adapter")
    theirs = PeftModel.from_pretrained(published(folder), tmp_path / "out", is_trainable=True).eval()
    ours = open_language_model(adapter, tmp_path).model
    found = [ours(IDS), theirs(IDS).logits]
    assert_equal(*(one.detach() for one in found))
    for one in found:
        F.cross_entropy(one[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.grad)
    ours.save_adapter(tmp_path / "gradients", folder)  # so the export names them
    publish_adapter(tmp_path / "gradients", tmp_path / "named", "base")
    gradients = load_file(tmp_path / "named" / WEIGHTS)
    twins = {
        name.replace(".default", "").replace("vector.weight", "vector"): one.grad
        for name, one in theirs.named_parameters()
        if one.requires_grad
    }
    assert gradients.keys() == twins.keys()
    for name, twin in twins.items():
        assert_equal(gradients[name], twin)


@pytest.mark.parametrize(
    "targets", [("*.attention.out",), ("k_proj", "up_proj"), ("*.1.attention.qkv", "*.0.feed_forward.inner")]
)
def test_an_exported_adapter_names_its_own_layers_and_no_others(project, tmp_path, targets):
    adapter, folder = project(targets=targets)
    run(adapter, tmp_path / "out", tmp_path, "adapter")
    theirs = PeftModel.from_pretrained(published(folder), tmp_path / "out")
    assert_equal(logits(theirs), logits(open_language_model(adapter, tmp_path).model))


@pytest.mark.parametrize(
    ("targets", "form"),
    [
        (["q_proj", "v_proj"], {}),
        (["q_proj", "v_proj"], {"use_dora": True}),
        ("all-linear", {"use_rslora": True}),
        (["gate_proj", "o_proj"], {}),
    ],
)
def test_an_adapter_of_peft_is_read_onto_our_fused_layers(tmp_path, form, targets):
    base = write_base(tmp_path / "base")
    torch.manual_seed(1)
    theirs = get_peft_model(published(base), LoraConfig(r=3, lora_alpha=5, target_modules=targets, **form))
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path / "peft")
    for merged in (False, True):
        assert_equal(logits(open_language_model(tmp_path / "peft", tmp_path, base, merged).model), logits(theirs))
    with pytest.raises(ArtifactError, match=r"peft: an adapter of .*base; name the folder of that model with --base"):
        open_language_model(tmp_path / "peft", tmp_path)


def test_pain_5_a_merged_adapter_is_the_adapter_on_its_base(project, tmp_path, ask):
    """It says what it was merged onto, and how far the logits are apart; the same texts come out."""
    adapter, folder = project()
    code, shown, _ = ask("export", "models/tuned", "out")
    digest = sha256_file(folder / MANIFEST)[:12]
    merged = f"Merged onto base (manifest {digest}): at 256 of 256 random tokens the likeliest next token is that of the adapter on its base"
    assert (
        code == 0
        and shown.startswith(f"out: LlamaForCausalLM\n{merged}")
        and merged in (tmp_path / "out/README.md").read_text()
    )
    unmerged = logits(open_language_model(adapter, tmp_path).model)
    there = published(tmp_path / "out")
    assert_equal(logits(there), unmerged)
    assert not torch.allclose(unmerged, logits(published(folder)), atol=0.1), "the adapter changes the model"
    texts = [
        [ids for _, _, ids, _ in Writer(adapter, tmp_path, merge=merge).write(PROMPTS, Decoding(max_new_tokens=24))]
        for merge in (False, True)
    ]
    assert texts[0] == texts[1]
    rows = [ask("generate", "models/tuned", "word", "--max-new-tokens", 9, *more)[1] for more in ([], ["--merge"])]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("held", [{"dtype": "bf16"}, {"dtype": "bf16", "quantisation": "nf4"}])
def test_pain_5_a_base_that_training_held_in_less_is_rounded_before_the_merge(project, tmp_path, held):
    """So the merged model is the trained one, and not the adapter on weights that training never saw."""
    adapter, folder = project()
    record = json.loads((adapter / "adapter_base.json").read_text())
    write_json(adapter / "adapter_base.json", {**record, **held})
    done = run(adapter, tmp_path / "out", tmp_path)
    name = held.get("quantisation", "bf16")
    assert done.merged.startswith(f"Merged onto base (manifest {record['manifest'][:12]}) in {name}: at 256 of 256")
    assert_equal(logits(published(tmp_path / "out")), logits(open_language_model(adapter, tmp_path).model))
    kept = load_file(tmp_path / "out/model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(kept, load_file(folder / "model.safetensors")["model.embed_tokens.weight"].bfloat16().float())


def test_pain_6_a_resized_tied_model_survives_merge_and_export(project, tmp_path):
    """The head stays tied, unused rows stay, and what the adapter does not touch has the bytes of the base."""
    adapter, folder = project(targets=("*.attention.qkv",))
    run(adapter, tmp_path / "out", tmp_path)
    before, after = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "out"))
    assert before.keys() == after.keys() and "lm_head.weight" not in after
    changed = {name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()}
    assert changed == {f"model.layers.{n}.self_attn.{p}_proj.weight" for n in range(2) for p in "qkv"}
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["tie_word_embeddings"] and config["vocab_size"] == len(after["model.embed_tokens.weight"]) == 320


@pytest.mark.parametrize("form", ["transformers", "adapter"])
def test_pain_7_template_and_stop_tokens_are_inside_and_bos_is_not_doubled(project, tmp_path, form):
    adapter, _ = project()
    run(adapter, tmp_path / "out", tmp_path, form)
    there, here = transformers.AutoTokenizer.from_pretrained(tmp_path / "out"), TextTokenizer(adapter)
    ends = [here.id_of(END), here.id_of(STOP)]
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == ends
    assert (tmp_path / "out/chat_template.jinja").read_text() == TEMPLATE == there.chat_template
    messages = [{"role": "user", "content": "word"}]
    ids = open_language_model(adapter, tmp_path).template.prompt([Message(**message) for message in messages])
    assert ids.count(here.id_of(BEGIN)) == 2, "one for each turn"
    assert there.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == ids
    text = there.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert there(text).input_ids == ids, "BOS before a rendered chat would be a second one"
    assert Writer(adapter, tmp_path).encode("a word") == there("a word").input_ids, "plain text, too"


@pytest.mark.parametrize("form", ["ours", "peft"])
def test_pain_12_an_adapter_with_renamed_keys_is_refused(project, tmp_path, form):
    adapter, base = project()
    if form == "peft":
        run(adapter, tmp_path / "out", tmp_path, "adapter")
        adapter = tmp_path / "out"
    tensors = load_file(adapter / WEIGHTS)
    save_file({name.replace(".lora_A.", ".inner.lora_A."): one for name, one in tensors.items()}, adapter / WEIGHTS)
    with pytest.raises(ArtifactError, match=r"missing .*lora_A\.weight.*extra .*inner\.lora_A\.weight") as error:
        open_language_model(adapter, tmp_path, base)
    assert "\n" not in str(error.value)


def test_an_adapter_of_another_base_names_both_digests(project, tmp_path):
    adapter, base = project()
    run(adapter, tmp_path / "out", tmp_path, "adapter")
    other = shutil.copytree(base, tmp_path / "other")
    write_json(other / MANIFEST, {"schema": 1, "counts": {}, "files": {"another": 1}})
    digests = f"an adapter of the base {sha256_file(base / MANIFEST)}, not of {sha256_file(other / MANIFEST)}"
    for folder in (adapter, tmp_path / "out"):
        with pytest.raises(ArtifactError, match=digests):
            open_language_model(folder, tmp_path, other)


def test_what_cannot_be_exported_as_an_adapter_is_one_line(project, tmp_path, ask):
    adapter, base = project()
    assert (
        "--format adapter: data/weights/base holds a whole model"
        in ask("export", "data/weights/base", "out", "--format", "adapter")[2]
    )
    run(adapter, tmp_path / "out", tmp_path, "adapter")
    with pytest.raises(ConfigError, match="has the layout of peft already"):
        run(tmp_path / "out", tmp_path / "again", tmp_path, "adapter")
    config = json.loads((tmp_path / "out" / CONFIG).read_text())
    write_json(tmp_path / "out" / CONFIG, {**config, "target_modules": ["q_porj"]})
    with pytest.raises(ArtifactError, match="target_modules name no linear layer of the base"):
        open_language_model(tmp_path / "out", tmp_path, base)
