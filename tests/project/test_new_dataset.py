"""`glassworks new dataset` recognises what a folder holds, and writes the entry or nothing."""

import io
import json
import tarfile
import wave

import pytest
import yaml

from glassworks.config.project import load_project
from glassworks.project.recognition import recognise
from glassworks.project.yaml_edits import with_entry, with_item

from .conftest import PARAMS


@pytest.fixture
def photos(written, write_image):
    folder = written.root / "photos"
    for number in range(40):
        write_image(folder / f"{number:02}.png", (20 + number, 20), number)
    rows = [f"{number:02}.png,picture number {number}" for number in range(40)]
    (folder / "captions.csv").write_text("\n".join(["file,caption", *rows]) + "\n")
    return folder


def jsonl(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_images_with_captions_become_an_entry_and_the_rest_stays(written, photos, glassworks):
    output = glassworks("new", "dataset", "photos", "photos")
    assert "40 images with captions.csv (source: folder)" in output
    assert "from 20×20 to 59×20 pixels" in output and "40 texts; 3 words a sample" in output
    text = (written.root / "params.yaml").read_text()
    assert [line for line in text.splitlines() if line in PARAMS.splitlines()] == PARAMS.splitlines()
    counts = load_project(written.root).params.datasets["photos"]
    assert (counts.source, counts.path, counts.splits.test) == ("folder", "photos", 0.2)
    written.run("fetch-photos")
    made = json.loads((written.run("records-photos") / "manifest.json").read_text())["counts"]["samples"]
    assert f"train {made['train']}, validation {made['validation']}, test {made['test']}" in output


def test_the_next_step_names_an_experiment_that_can_be_copied_even_if_params_lists_none(written, photos, glassworks):
    """Experiments that read weights, which this project does not have, or that fail, are passed over."""
    root = written.root
    (root / "params.yaml").write_text("datasets: {}\n\nexperiments: []\n")
    folder = root / "experiments"
    (folder / "a_broken.yaml").write_text("task: captioning\ndata: [\n")
    model = "{{ encoder: {{ image_size: 16, patch_size: 8, width: 16, depth: 1, heads: 2{0} }}, decoder: {{ width: 16, depth: 1, heads: 2, max_tokens: 16 }} }}"
    rest = "optimization: { learning_rate: 0.01, warmup_steps: 1 }\ntraining: { steps: 2, batch_size: 2, micro_batches: 1, validate_every: 1 }\n"
    for name, more in (("b_weights", ", weights: absent"), ("c_own", "")):
        text = f"task: captioning\ndata: {{ dataset: scenes, tokenizer: {{ vocab_size: 280 }} }}\nmodel: {model.format(more)}\n{rest}"
        (folder / f"{name}.yaml").write_text(text)
    output = glassworks("new", "dataset", "photos", "photos")
    assert "then: glassworks new experiment EXPERIMENT --like c_own --dataset photos\n" in output
    assert "written: experiments/mine.yaml" in glassworks(
        "new", "experiment", "mine", "--like", "c_own", "--dataset", "photos"
    )


def test_dry_run_shows_the_entry_alone(written, photos, glassworks):
    output = glassworks("new", "dataset", "photos", "photos", "--dry-run")
    assert yaml.safe_load(output)["photos"]["source"] == "folder"
    assert (written.root / "params.yaml").read_text() == PARAMS


def test_a_sample_with_a_fault_is_named_and_nothing_is_written(written, photos, glassworks):
    with (photos / "captions.csv").open("a") as table:
        table.write("40.png,not there\n")
    output = glassworks("new", "dataset", "photos", "photos")
    assert "captions.csv line 42" in output and "40.png" in output and "--max-dropped 1" in output
    assert (written.root / "params.yaml").read_text() == PARAMS
    assert "written" in glassworks("new", "dataset", "photos", "photos", "--max-dropped", 1)
    assert load_project(written.root).params.datasets["photos"].max_dropped == 1


def sounds(folder):
    (folder / "calls").mkdir()
    for number in range(12):
        with wave.open(str(folder / f"calls/{number}.wav"), "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
            file.writeframes(bytes([number, 0]) * 1600)
    rows = [f"{number}.wav,call {number}" for number in range(12)]
    (folder / "calls/captions.csv").write_text("\n".join(["file,caption", *rows]))
    return "calls", "audio_folder", "12 sounds"


def conversations(folder):
    jsonl(folder / "talks/talks.jsonl", [{"instruction": f"say {n}", "output": f"{n}"} for n in range(40)])
    return "talks", "messages", "alpaca form"


def one_file(folder):
    turns = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}] for n in range(40)]
    jsonl(folder / "one/talks.jsonl", [{"messages": messages} for messages in turns])
    return "one/talks.jsonl", "messages", "OpenAI form"


def texts(folder):
    jsonl(folder / "prose/all.jsonl", [{"text": f"text number {n}"} for n in range(40)])
    return "prose", "texts", "all.jsonl"


def llava(folder):
    from PIL import Image

    (folder / "seen/images").mkdir(parents=True)
    rows = []
    for number in range(20):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / f"seen/images/{number}.png")
        turns = [{"from": "human", "value": "<image>\nred?"}, {"from": "gpt", "value": "yes"}]
        rows.append({"id": number, "image": f"{number}.png", "conversations": turns})
    (folder / "seen/all.json").write_text(json.dumps(rows))
    return "seen", "llava", "LLaVA's layout"


def videos(folder):
    from PIL import Image

    from glassworks.data.animations import write_webp

    (folder / "films").mkdir()
    rows = []
    for number in range(5):
        frames = [Image.new("RGB", (9, 9), (number, shade, 0)) for shade in (0, 99)]
        (folder / f"films/{number}.webp").write_bytes(write_webp(frames, 250))
        rows.append({"video": f"{number}.webp", "question": "red?", "answer": "no"})
    (folder / "films/rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "films", "video", "rows.jsonl with a video in each row"


def tars(folder):
    from PIL import Image

    (folder / "tars").mkdir()
    for split in ("train", "val"):
        with tarfile.open(folder / f"tars/{split}-000.tar", "w") as file:
            for number in range(3):
                image = io.BytesIO()
                Image.new("RGB", (9, 9), (number, len(split), 0)).save(image, "PNG")
                for name, content in ((f"{number}.png", image.getvalue()), (f"{number}.txt", b"a square")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
    return "tars", "webdataset", "2 .tar"


@pytest.mark.parametrize("make", [sounds, conversations, one_file, texts, llava, videos, tars])
def test_each_form_is_recognised(written, glassworks, make):
    path, source, words = make(written.root)
    output = glassworks("new", "dataset", "found", path)
    assert f"(source: {source})" in output and words in output
    assert load_project(written.root).params.datasets["found"].source == source


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("LibriSpeech/dev-clean/84/121/84-121.trans.txt", "librispeech"),
        ("cv-corpus/en/validated.tsv", "common_voice"),
        ("annotations/captions_val2017.json", "coco_captions"),
        ("flickr30k_images/1000.jpg", "flickr30k"),
        ("flickr30k-images/1000.jpg", "flickr30k"),
    ],
)
def test_published_data_sets_are_recognised_by_their_layout(tmp_path, name, source):
    assert recognise(tmp_path, ["README.txt", name], tmp_path).source == source


def test_unknown_content_is_one_line_with_the_forms(written, glassworks):
    (written.root / "odd").mkdir()
    (written.root / "odd/a.xyz").write_bytes(b"\0\1")
    output = glassworks("new", "dataset", "odd", "odd")
    assert output.startswith("error: odd: found 1 .xyz; no source is for this. The forms are folder: images")
    assert "\n" not in output


def test_what_fits_two_sources_is_left_to_the_user(written, photos, glassworks):
    jsonl(photos / "talks.jsonl", [{"prompt": f"{n}", "completion": "x"} for n in range(40)])
    output = glassworks("new", "dataset", "photos", "photos")
    assert "several sources fit: messages (talks.jsonl" in output and "choose one with --source" in output
    assert "source: messages" in glassworks("new", "dataset", "photos", "photos", "--source", "messages")


def test_refusals_are_one_line(written, photos, glassworks):
    def error(*arguments):
        output = glassworks("new", "dataset", *arguments)
        assert output.startswith("error: ") and "\n" not in output
        assert (written.root / "params.yaml").read_text() == PARAMS
        return output

    assert "datasets.words is there already" in error("words", "photos")
    assert "begins with a letter" in error("9", "photos")
    assert "nowhere does not exist" in error("new", "nowhere")
    assert "contains files that the project writes" in error("new", ".")
    assert "did you mean 'folder'?" in error("new", "photos", "--source", "folders")
    assert "unknown key" in error("new", "photos", "--set", "caption=a.csv")
    assert "expected KEY=VALUE" in error("new", "photos", "--set", "captions")
    (photos / "captions.csv").rename(photos / "unusual.csv")
    assert "tables found: unusual.csv; name the table with --set captions=TABLE" in error("new", "photos")


@pytest.mark.parametrize(
    "before",
    [
        "a: 1\ns:\n  x: { y: 1 } # here\n\n# there\nt: 2\n",
        "s:\n    x:\n        y: |\n            text\n            more\nt: 2\n",
        "s: { x: { y: 1 } } # flow\nt: 2",
        "s: {} # none\nt: 2\n",
        "s:\nt: 2\n",
        "t: 2",
        "s:\r\n  x: 1 # here\r\nt: 2\r\n",
    ],
)
def test_an_entry_is_inserted_and_nothing_else_changes(before):
    after = with_entry(before, "s", ["n: # new", "  z: [1, 2]"])
    content = yaml.safe_load(before)
    assert yaml.safe_load(after) == {**content, "s": {**(content.get("s") or {}), "n": {"z": [1, 2]}}}
    assert all(comment in after for comment in ("# here", "# there", "# flow") if comment in before)
    assert ("\r\n" in before) == ("\r\n" in after)


@pytest.mark.parametrize("before", ["e: [a, b] # all\n", "e: []\n", "e:\n  - a # one\n\nt: 1\n", "e:\n- a\n", "t: 1\n"])
def test_an_item_is_inserted_and_nothing_else_changes(before):
    after, content = with_item(before, "e", "n"), yaml.safe_load(before)
    assert yaml.safe_load(after) == {**content, "e": [*content.get("e", []), "n"]}
    assert all(comment in after for comment in ("# all", "# one") if comment in before)
