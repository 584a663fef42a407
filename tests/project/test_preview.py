"""`glassworks preview` shows samples, what several splits share, and what was dropped, in one page without references."""

import base64
import io
import json
import re

import pytest
import yaml
from PIL import Image

PARAMS = {
    "datasets": {
        "photos": {"source": "folder", "path": "photos", "max_dropped": 1, "shard_jobs": 1},
        "talks": {"source": "messages", "path": "talks.jsonl", "shard_jobs": 1},
    },
    "experiments": [],
}


@pytest.fixture
def made(project, write_image, monkeypatch):
    rows = ["file,caption,split"]
    for number in range(8):
        write_image(project.root / f"photos/{number}.png", (400, 20), number % 7)  # 0 and 7 are equal
        rows.append(f"{number}.png,a <b>picture</b> {number},{'train' if number < 7 else 'test'}")
    (project.root / "photos/captions.csv").write_text("\n".join([*rows, "8.png,not there,train"]))
    talks = [f'{{"prompt": "say {n}", "completion": "{n}"}}\n' for n in range(30)]
    (project.root / "talks.jsonl").write_text("".join(talks))
    (project.root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    monkeypatch.chdir(project.root)
    for name in PARAMS["datasets"]:
        project.run(f"fetch-{name}"), project.run(f"records-{name}")
        project.run_job(f"shards-{name}", 0), project.run(f"shards-{name}")
    return project


def test_the_page_shows_samples_and_what_is_wrong(made, glassworks):
    output = glassworks("preview", "photos", "--output", "page.html")
    assert "page.html: photos, train 7, test 1 samples" in output
    assert "in several splits: 1 images or sounds, 0 texts; dropped: 1" in output
    page = (made.root / "page.html").read_text()
    assert "a &lt;b&gt;picture&lt;/b&gt; 3" in page and "<b>" not in page
    assert "captions.csv line 10 (8.png): there is no file" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [Image.open(io.BytesIO(base64.b64decode(one))).size for one in pictures] == [(320, 16)] * 8
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_conversations_are_shown_with_roles(made, glassworks):
    glassworks("preview", "talks", "--count", 3)
    page = (made.root / "preview-talks.html").read_text()
    assert '<span class="who">user</span>say' in page and '<span class="who">assistant</span>' in page


def test_several_images_of_a_sample_are_side_by_side(made, glassworks, write_image):
    for number in range(2):
        write_image(made.root / f"pairs/{number}.png", (30 + 10 * number, 20), number)
    turns = [{"from": "human", "value": "<image>\n<image>\nSame?"}, {"from": "gpt", "value": "No."}]
    row = {"id": "1", "image": ["0.png", "1.png"], "conversations": turns}
    (made.root / "pairs/rows.json").write_text(json.dumps([row]))
    pairs = {"source": "llava", "path": "pairs", "splits": {"validation": 0, "test": 0}}
    (made.root / "params.yaml").write_text(yaml.safe_dump({"datasets": {"pairs": pairs}, "experiments": []}))
    for stage in ("fetch-pairs", "records-pairs", "shards-pairs"):
        made.run(stage)
    glassworks("preview", "pairs")
    page = (made.root / "preview-pairs.html").read_text()
    [picture] = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (40 + 2 + 40, 20)
    assert "[image] [image]" in page


def test_refusals_are_one_line(made, glassworks):
    assert "did you mean 'photos'?" in glassworks("preview", "photo")
    assert "cannot be written" in glassworks("preview", "talks", "--output", "nowhere/page.html")
    (made.root / "data/shards/talks/manifest.json").unlink()
    assert "make it with `snakemake" in glassworks("preview", "talks")
