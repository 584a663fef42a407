"""`glassworks index` and `retrieve` find the exact neighbours of a text, an image and speech, and say in one line what is wrong."""

import io
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional as F

from glassworks.artifacts.digests import write_json
from glassworks.artifacts.manifest import faults
from glassworks.artifacts.publication import seal
from glassworks.data.reading.audio import decode_audio
from glassworks.data.records import Record
from glassworks.data.shards import Plan, write_tar
from glassworks.data.sidecars import INDEX, read_sidecar
from glassworks.encoders.sentence.settings import Sentence
from glassworks.encoders.timm_image.settings import TimmImage
from glassworks.encoders.tower import identity
from glassworks.encoders.whisper.settings import Whisper
from glassworks.inference.index import make
from glassworks.models.alignment import Alignment
from glassworks.models.settings.alignment import Alignment as Heads

from ..data.small_shards import picture
from ..tiny_towers import image_tower, speech_tower, text_tower

TEXTS = ["a red square", "the green square", "blue", "a grey", "red is blue", "the grey square is green"]
ENCODERS = {
    "image": ("eye", image_tower, TimmImage(weights="eye", image_size=32, batch_size=2)),
    "audio": ("ear", speech_tower, Whisper(weights="ear", seconds=1, batch_size=2)),
    "text": ("reader", text_tower, Sentence(weights="reader", max_tokens=8, batch_size=2)),
}
WIDTHS = {"image": 64, "audio": 32, "text": 32}
INDEXED = "data/indexes/heads/things"


def tone(number, rate=16_000, seconds=0.5):
    return (0.4 * np.sin(2 * np.pi * (300 + 200 * number) * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def members(record):
    """Every sample is spoken; the last lacks an image."""
    number, file = record.labels["number"], io.BytesIO()
    soundfile.write(file, tone(number), 16_000, format="FLAC")
    return {"flac": file.getvalue(), **({"png": picture(number)} if number < 5 else {})}


def save_heads(folder, towers):
    torch.manual_seed(2)
    Alignment(Heads(width=8, widths=[8, 4]), towers).save(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with six samples of three modalities, an index of them by random heads, and the heads `silent`, which lack the audio."""
    return write_indexed(tmp_path_factory.mktemp("project"))


def write_indexed(root):
    towers = {}
    for modality, (name, write, settings) in ENCODERS.items():
        weights = write(root / f"data/weights/{name}")
        seal(weights, {}, {})
        towers[modality] = {"encoder": name, "width": WIDTHS[modality], **identity(settings, weights)}
    save_heads(root / "models/heads", towers)
    save_heads(root / "models/silent", {name: tower for name, tower in towers.items() if name != "audio"})
    shards = root / "data/shards/things"
    shards.mkdir(parents=True)
    listed = []
    for split, numbers in {"train": range(4), "test": range(4, 6)}.items():
        records = [Record(f"k{n}", split, f"g{n}", [TEXTS[n]], {"number": n}) for n in numbers]
        list(write_tar(shards, Plan(f"{split}-00000", split, records), members))
        sidecar = read_sidecar(shards / f"{split}-00000.json")
        entry = {"tar": sidecar.tar, "split": split, "samples": len(sidecar.samples)}
        listed.append({**entry, "sha256": sidecar.sha256, "size": sidecar.size})
    write_json(shards / INDEX, {"shards": listed})
    seal(shards, {}, {})
    assert make(root / "models/heads", "things", root)[0] == root / INDEXED
    return root


@pytest.fixture
def indexed(made, tmp_path, monkeypatch):
    """A copy of the project; it is the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(shown):
    return [json.loads(line) for line in shown.splitlines()]


def retrieve(ask, *arguments):
    code, shown, error = ask("retrieve", "models/heads", *arguments, "--json", "--count", 9)
    assert code == 0, error
    return rows(shown)


def test_every_sample_is_its_own_nearest_neighbour_in_its_modality(indexed, ask):
    (indexed / "query.png").write_bytes(picture(3))
    soundfile.write(indexed / "query.wav", tone(3), 16_000)
    for option, modality, query in (
        ("--text", "text", TEXTS[3]),
        ("--image", "image", "query.png"),
        ("--speech", "audio", "query.wav"),
    ):
        found = retrieve(ask, option, query)
        assert [sum(row["modality"] == name for row in found) for name in ("image", "audio", "text")] == [5, 6, 6]
        first = next(row for row in found if row["modality"] == modality)
        assert (first["key"], first["rank"], first["split"]) == ("k3", 1, "train")
        assert first["similarity"] == pytest.approx(1, abs=1e-4) and first["texts"] == [TEXTS[3]]


@pytest.mark.parametrize("width", [8, 4])
def test_neighbours_are_in_the_order_of_the_cosine_of_the_first_numbers(indexed, ask, width):
    from safetensors.torch import load_file

    vectors = load_file(indexed / INDEXED / "vectors.safetensors")
    query = vectors["text"][2]
    found = retrieve(ask, "--text", TEXTS[2], "--width", width)
    for name, some in vectors.items():
        cosines = F.cosine_similarity(some[:, :width], query[None, :width])
        order = sorted((number for number in range(6) if some[number].any()), key=lambda number: -cosines[number])
        own = [row for row in found if row["modality"] == name]
        assert [row["key"] for row in own] == [f"k{number}" for number in order]
        assert [row["similarity"] for row in own] == pytest.approx(cosines[order].tolist(), abs=1e-4)


def test_another_rate_and_two_channels_are_resampled_and_said(indexed, ask):
    sound = tone(2, rate=48_000)
    soundfile.write(indexed / "stereo.wav", np.stack([sound, sound], 1), 48_000)
    code, shown, error = ask("retrieve", "models/heads", "--speech", "stereo.wav", "--json")
    assert code == 0 and error == "note: stereo.wav: 48,000 Hz, stereo, is resampled to 16,000 Hz, mono\n"
    mono = decode_audio((indexed / "stereo.wav").read_bytes(), 16_000, "stereo.wav")
    soundfile.write(indexed / "mono.flac", mono.numpy(), 16_000)
    other = rows(ask("retrieve", "models/heads", "--speech", "mono.flac", "--json")[1])
    assert [row["key"] for row in rows(shown)] == [row["key"] for row in other]
    soundfile.write(indexed / "long.wav", tone(1, seconds=3), 16_000)
    error = ask("retrieve", "models/heads", "--speech", "long.wav")[2]
    assert error == "note: long.wav: lasts 3.0 s; the encoder reads the first 1 s\n"


def test_the_page_holds_pictures_and_players_and_fetches_nothing(indexed, ask):
    code, _, error = ask("retrieve", "models/heads", "--text", "<b>red</b>", "--html", "found.html", "--count", 6)
    assert code == 0, error
    page = (indexed / "found.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 15 and page.count("<audio ") == 17
    assert 'src="data:audio/flac;base64,' in page and "<b>red" not in page and "&lt;b&gt;red&lt;/b&gt;" in page
    assert "http" not in page.replace("http-equiv", "") and "media-src data:" in page


def test_an_index_is_a_whole_artefact_of_equal_bytes(indexed, ask):
    folder = indexed / INDEXED
    assert list(faults(folder)) == [] and all(not file.stat().st_mode & 0o222 for file in folder.glob("[iv]*"))
    before = (folder / "manifest.json").read_bytes()
    code, shown, error = ask("index", "models/heads", "things")
    assert code == 0 and shown.endswith(f"{INDEXED}: 6 audio, 5 image, 6 text\n"), error
    assert (folder / "manifest.json").read_bytes() == before


def test_an_index_of_another_model_altered_or_of_other_shards_is_refused(indexed, ask):
    towers = Alignment.load(indexed / "models/heads").towers
    saved = (indexed / "models/heads/model.safetensors").read_bytes()
    torch.manual_seed(9)
    Alignment(Heads(width=8, widths=[8, 4]), towers).save(indexed / "models/heads")
    code, _, error = ask("retrieve", "models/heads", "--text", "red")
    assert code == 4 and error.endswith(
        "made with another model than models/heads as it is now; make it again with `glassworks index models/heads things`\n"
    )
    (indexed / "models/heads/model.safetensors").write_bytes(saved)
    manifest = indexed / "data/shards/things/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert ask("retrieve", "models/heads", "--text", "red")[0] == 0
    code, _, error = ask("retrieve", "models/heads", "--text", "red", "--html", "found.html")
    assert code == 4 and "data/shards/things: not the shards that" in error
    file = indexed / INDEXED / "vectors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)
    code, _, error = ask("retrieve", "models/heads", "--text", "red")
    assert code == 4 and "vectors.safetensors: its sha256 is not the manifest's" in error


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give one query: --text, --image or --speech"),
        (["--text", "a", "--image", "a.png"], 2, "give one query: --text, --image or --speech"),
        (["--text", " "], 3, "--text: the text is empty"),
        (["--image", "no.png"], 3, "no.png: not readable (No such file or directory)"),
        (["--speech", "empty.wav"], 3, "empty.wav: the audio is empty"),
        (["--speech", "corrupt.flac"], 3, "corrupt.flac: the audio does not decode: "),
        (["--text", "a", "--width", "5"], 2, "--width 5: models/heads was trained for the widths 8, 4; choose one"),
        (["--text", "a", "--dataset", "thing"], 4, "no index; did you mean 'things'?; make one with"),
    ],
)
def test_a_query_that_cannot_be_is_one_clear_line(indexed, ask, arguments, code, message):
    (indexed / "empty.wav").write_bytes(b"")
    (indexed / "corrupt.flac").write_bytes(b"fLaC" + bytes(100))
    found, shown, error = ask("retrieve", "models/heads", *arguments)
    assert (found, shown) == (code, "") and message in error and error.count("\n") == 1


def test_what_a_model_lacks_is_one_clear_line(indexed, ask):
    soundfile.write(indexed / "query.wav", tone(0), 16_000)
    code, _, error = ask("retrieve", "models/silent", "--speech", "query.wav")
    assert code == 2 and error == "error: --speech: models/silent has no tower for speech; it aligns image and text\n"
    code, _, error = ask("retrieve", "models/silent", "--text", "red")
    assert code == 4 and error.endswith("no index; make one with `glassworks index models/silent DATASET`\n")
    code, _, error = ask("index", "models/silent", "thinks")
    assert code == 4 and error.endswith("data/shards/thinks; did you mean 'things'?\n")
