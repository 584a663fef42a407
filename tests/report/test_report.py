"""The stage `report`: one page that opens offline, escapes what it shows, and comes out the same every time."""

import hashlib
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from glassworks.errors import ArtifactError, DataError
from glassworks.evaluation.language.labels import labels as language_labels
from glassworks.report.figures import GROUPS, loss_figure
from glassworks.report.page import TIMINGS_END, TIMINGS_START
from glassworks.report.reading import Run, read_curves
from glassworks.sources.openmoji.settings import CREDIT

from .conftest import ATTACK, EXPERIMENT, METRICS, PARAMS, MadeProject, caption_lines, interval, results, training_log

Texts = Callable[[str], str]


def page(directory: Path) -> str:
    return (directory / "report.html").read_text()


def test_two_renders_are_the_same_bytes(made: MadeProject) -> None:
    made.make_all()
    first, second = made.report("one"), made.report("two")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["loss.svg", "metrics.svg", "report.html"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_page_holds_no_time_no_host_and_no_path(made: MadeProject) -> None:
    made.make_all()
    output = made.report()
    for path in output.iterdir():
        text = path.read_text()
        assert str(made.root) not in text
        assert not re.search(r"\d\d:\d\d:\d\d|<dc:date>", text)


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_page_refers_to_nothing_outside_itself(made: MadeProject) -> None:
    made.make_all()
    text, elements = page(made.report()), Elements()
    elements.feed(text)
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in elements.found:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith("data:image/png;base64,") or value == "#" or value[1:] in ids, (tag, name, value)
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "@import" not in style and "url(" not in style


def test_captions_are_escaped(made: MadeProject, texts: Texts) -> None:
    made.make_all()
    text = page(made.report())
    assert "<script" not in text and "<img src=x" not in text and "<b>bold" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert text.count(TIMINGS_START) == text.count(TIMINGS_END) == 1
    shown = texts(text)
    assert '<script>alert(1)</script> & "a cat"' in shown and "a <cat> & dog 0" in shown
    assert "Glass & <b>bold</b>" in shown


def test_page_shows_every_system_with_intervals_and_controls(made: MadeProject, texts: Texts) -> None:
    made.make_all()
    shown = texts(page(made.report()))
    table = shown[shown.index("Scores") : shown.index("What the columns mean")]
    names = ["greedy", "beam search", "Controls", "blank image", "shuffled images", "most frequent"]
    places = [table.index(name, table.index("System")) for name in names]
    assert places == sorted(places)
    assert "270.0 268.0–272.0" in table and "90.0 88.0–92.0" in table
    assert (
        "exact objects the model (beam search, 90.0) is better than its best control (shuffled images, 10.0)" in table
    )
    assert "3.25 3.23–3.27" in shown and "123,456" in shown


def test_a_model_no_better_than_its_controls_is_called_so(made: MadeProject, texts: Texts) -> None:
    systems = {**METRICS["systems"], "beam": {"objects": interval(0.11)}, "shuffled": {"objects": interval(0.1)}}
    made.make_all(metrics={**METRICS, "systems": systems})
    assert "(beam search, 11.0) cannot be told from its best control" in texts(page(made.report()))


def test_gallery_shows_the_first_images_and_marks_exact_matches(made: MadeProject, texts: Texts) -> None:
    made.make_all()
    text = page(made.report())
    shown = texts(text)
    assert text.count('src="data:image/png;base64,') == 3 and shown.count("no image kept") == 1
    assert "The first 4 of the split" in shown and "a cat 3" not in shown.partition("no image kept")[0]
    assert (
        shown.count("✓ objects") == 2
        and shown.count("✗ objects") == 2
        and "counts" not in shown[shown.index("✓") :][:40]
    )
    assert "dog 4" not in shown


def test_sounds_of_a_gallery_play_offline(made: MadeProject) -> None:
    made.make_all()
    gallery = made.root / "results/first/captions/gallery"
    (gallery / "s1.flac").write_bytes(b"fLaC and more")
    (gallery / "s3.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    text = page(made.report())
    assert "media-src data:" in text  # or browsers play nothing
    assert text.count('<audio controls preload="none" src="data:audio/') == 2
    assert 'src="data:audio/flac;base64,ZkxhQ' in text and "no image kept" not in text


def test_a_metric_is_drawn_over_a_number_of_its_rows(made: MadeProject) -> None:
    made.make_all()
    file = made.root / "results/first/captions/labels.json"
    labels = json.loads(file.read_text())
    curve = {"title": "Score against beams", "x_title": "beams", "rows": {"beam": 4, "greedy": 1}, "columns": ["cider"]}
    file.write_text(json.dumps({**labels, "curve": curve}))
    text = page(made.report())
    assert 'aria-label="Score against beams"' in text and text == page(made.report("again"))


def test_digests_keys_and_parameters_are_all_there(made: MadeProject, texts: Texts) -> None:
    made.make_all()
    shown = texts(page(made.report()))
    for name in ("shards-openmoji", "shards-scenes", "train-first", "evaluate-first-captions"):
        assert f"key-of-{name}" in shown
    manifest = made.root / "models/first/manifest.json"
    assert hashlib.sha256(manifest.read_bytes()).hexdigest() in shown
    assert "c0de" * 16 in shown and "torch 2.12.1" in shown
    assert "seed: 5" in shown and "steps: 40" in shown and "learning_rate: 0.001" in shown


def test_data_cards_name_counts_licence_and_credit(made: MadeProject, texts: Texts) -> None:
    made.make_all()
    shown = texts(page(made.report()))
    assert shown.count(CREDIT.credit) == 2 and "places drawings of the data set openmoji" in shown
    data = shown[shown.index("train 1,234") :]
    assert data.startswith("train 1,234 validation 7 test 12 captions 5,000 dropped 2 shards 3 size 4.5 MB")


def test_curves_are_drawn(made: MadeProject) -> None:
    made.make_all()
    output = made.report()
    assert "Learning rate" in page(output) and "Validation loss ended at 0.325 (step 40), its lowest." in page(output)
    assert "validation" in (output / "loss.svg").read_text() and "beam search" in (output / "metrics.svg").read_text()
    assert "var(--" not in (output / "loss.svg").read_text() and "#0a0b0" not in page(output)


def drawn(folder: Path, log: str) -> str:
    """The figure of one training log."""
    (folder / "metrics.jsonl").write_text(log)
    return loss_figure([Run("first", {}, curves=read_curves(folder / "metrics.jsonl"))])


def styles(svg: str, colour: str) -> dict[str, str]:
    """The style of every line of this colour, by its path."""
    found = re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg)
    return {path: style for path, style in found if f"stroke: {colour}" in style}


def test_every_part_of_a_loss_is_drawn_under_its_name(tmp_path: Path) -> None:
    rows: list[dict[str, float | None]] = []
    for step in range(1, 21):
        rows.append(
            {"step": step, "loss": 3 / step, "loss.match": 2 / step, "loss.words": 1 / step if step > 3 else None}
        )
        if step % 5 == 0:
            rows.append({"step": step, "validation_loss": 4 / step, "validation_loss.match": 3 / step})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = read_curves(tmp_path / "metrics.jsonl")
    assert curves.parts["words"] == (list(range(4, 21)), [1 / step for step in range(4, 21)])
    assert curves.validation_parts == {"match": ([5, 10, 15, 20], [3 / step for step in (5, 10, 15, 20)])}
    svg = loss_figure([Run("first", {}, curves=curves)])
    (tmp_path / "loss.svg").write_text(svg)
    for name in ("match", "words", "match, validation"):
        assert f">{name}<" in svg or f"<!-- {name} -->" in svg


def test_every_parameter_group_has_a_line_and_a_name(made: MadeProject) -> None:
    made.make_all(log=training_log({"vision": lambda _: 0.5, "<head> of a long name": lambda _: 0.25}))
    output = made.report()
    svg = (output / "loss.svg").read_text()
    assert all(f">{name}<" in svg for name in ("default", "vision", "&lt;head&gt; of a lon…"))
    assert [len(styles(svg, colour)) for colour in GROUPS[1:]] == [1, 1, 0]
    assert ">vision<" in page(output) and "#0a0b0" not in page(output)


def test_without_groups_the_learning_rate_is_one_line_without_a_name(tmp_path: Path) -> None:
    svg = drawn(tmp_path, training_log())
    assert ">default<" not in svg and not any(styles(svg, colour) for colour in GROUPS[1:])


def test_learning_rates_far_apart_are_drawn_on_a_logarithmic_scale(tmp_path: Path) -> None:
    near = drawn(tmp_path, training_log({"vision": lambda _: 0.5}))
    far = drawn(tmp_path, training_log({"vision": lambda _: 0.01}))
    assert ">0.0009<" in near and not any(f">1e-{power}<" in near for power in (3, 4, 5))
    assert all(f">1e-{power}<" in far for power in (3, 4, 5))


def test_frozen_steps_are_gaps_and_a_frozen_group_is_called_so(tmp_path: Path) -> None:
    groups = {"late": lambda step: 0.8 * (step > 20), "early": lambda step: 0.6 * (step <= 20), "never": lambda _: 0.0}
    svg = drawn(tmp_path, training_log(groups))
    (late,), (early,) = styles(svg, GROUPS[1]), styles(svg, GROUPS[2])
    edges = [[float(x) for x in re.findall(r"[ML] ([\d.]+)", path)] for path in (early, late)]
    assert max(edges[0]) < min(edges[1])
    assert not styles(svg, GROUPS[3]) and ">never (frozen)<" in svg


def test_equal_learning_rates_are_all_to_be_seen(tmp_path: Path) -> None:
    svg = drawn(tmp_path, training_log({"vision": lambda _: 1.0, "head": lambda _: 0.5}))
    dashed = ["dasharray" in style for colour in GROUPS[:3] for style in styles(svg, colour).values()]
    assert dashed == [False, True, False]


@pytest.mark.parametrize("share", [1.0, 0.0, 1e-3])
def test_names_of_groups_stand_beside_the_panel_and_not_on_each_other(tmp_path: Path, share: float) -> None:
    svg = drawn(tmp_path, training_log({f"layer {number}": lambda _: share for number in range(9)}))
    places = sorted(float(y) for y in re.findall(r' y="([\d.]+)"[^>]*>(?:default|layer \d)', svg))
    assert len(places) == 10 and all(below - above > 9 for above, below in pairwise(places))
    assert places[-1] < min(float(y) for y in re.findall(r' y="([\d.]+)"[^>]*>step<', svg))


def test_the_lowest_validation_loss_is_ringed_where_there_are_several(tmp_path: Path) -> None:
    assert ">lowest<" in drawn(tmp_path, training_log())
    rows = [{"step": 1, "loss": 2.0}, {"step": 1, "validation_loss": 2.0}, {"step": 2, "validation_loss": math.nan}]
    assert ">lowest<" not in drawn(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))


def test_curves_hold_the_rates_of_groups_and_nothing_unknown(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text(
        '{"step": 1, "loss": 2, "learning_rate": 0.1, "learning_rate.a.b": 0, "loss_scale": "?", "learning_rates": 0}\n'
        '{"step": 1, "validation_loss": 3, "validation_accuracy": null}\n'
        '{"step": 1, "validation_accuracy": 0.5}\n'
    )
    curves = read_curves(log)
    assert (curves.steps, curves.losses, curves.learning_rates) == ([1], [2], [0.1])
    assert (curves.validation_steps, curves.validation_losses) == ([1], [3])
    assert curves.group_rates == {"a.b": [0]}


def test_a_project_of_data_alone_has_a_report(made: MadeProject, texts: Texts) -> None:
    made.make_all()
    made.small.configure(PARAMS)
    made.make("shards-openmoji", {}, {"samples": {"train": 3}})
    made.make("shards-scenes", {}, {})
    output = made.report()
    assert "No experiment is listed" in texts(page(output))
    assert "No training run" in (output / "loss.svg").read_text()


def test_missing_pieces_leave_gaps_not_errors(made: MadeProject, texts: Texts) -> None:
    made.make_all()
    made.make("train-first", {"config.json": "{}"})
    (made.root / "models/first/metrics.jsonl").unlink()
    rows = [{"key": "s0", "greedy": "a cat"}, {"key": "none", "beam": "a dog", "references": ["x"]}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    made.make("evaluate-first-captions", results({"samples": 2, "systems": {}}, lines))
    shown = texts(page(made.report()))
    assert "a dog" in shown and "Learning rate" not in shown and "cannot be told" not in shown
    made.small.configure(PARAMS, first={**EXPERIMENT, "evaluations": {}})
    assert "has not been scored" in texts(page(made.report("again")))


def test_an_evaluation_is_shown_by_its_labels_alone(made: MadeProject, texts: Texts) -> None:
    """An evaluation that this project does not have: its own columns, rows, items, and a second one beside it."""
    evaluations = {"captions": {}, "seen": {"kind": "captions", "split": "train", "dataset": "openmoji"}}
    made.small.configure(PARAMS, first={**EXPERIMENT, "evaluations": evaluations})
    made.make_all()
    shown = {
        "unit": "recordings",
        "tiles": [
            {"name": "wer", "title": "Errors", "value": "/systems/own~1it/wer", "scale": 100, "digits": 2, "unit": "%"}
        ],
        "table": {
            "title": "Words",
            "columns": [{"name": "wer", "title": "WER", "lower_is_better": True, "drawn": True, "digits": 2}],
            "rows": [
                {"name": "own", "title": "ours", "cells": {"wer": "/systems/own~1it/wer"}},
                {"name": "silence", "title": "silence", "control": True, "cells": {"wer": "/plain"}},
            ],
            "first": "own",
            "controls": "Baselines",
            "verdict": ["wer"],
            "notes": ["One note.", "Another <note>."],
        },
        "items": {"kind": "texts", "title": "Heard", "label": "speaker", "text": "heard"},
    }
    metrics = {"samples": 7, "split": "train", "systems": {"own/it": {"wer": interval(0.25)}}, "plain": 0.5}
    files = {"metrics.json": metrics, "labels.json": shown, "items.jsonl": {"speaker": "anna", "heard": "a <b> word"}}
    made.make("evaluate-first-seen", {name: json.dumps(value) for name, value in files.items()})
    html = page(made.report())
    read = texts(html)
    assert "scored on 12 images of the test split and 7 recordings of the train split of openmoji." in read
    assert "seen: Errors 25.00 % 23.00–27.00" in read and "captions: CIDEr-D 270.0" in read
    assert "By WER the model (ours, 0.25) is better than its best control (silence, 0.50)." in read
    assert "One note. Another <note>." in read and "speaker anna a <b> word" in read and "Heard: seen" in read
    assert read.index("Scores: captions") < read.index("Words: seen") < read.index("Held-out images: captions")
    assert all(name in (made.root / "w/output/metrics.svg").read_text() for name in (">first: captions<", ">WER<"))
    elements = Elements()
    elements.feed(html)
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_several_experiments_stand_side_by_side(made: MadeProject, texts: Texts) -> None:
    made.small.configure(PARAMS, first=EXPERIMENT, second=EXPERIMENT)
    made.make_all()
    made.make("train-second", {"metrics.jsonl": training_log()})
    made.make("evaluate-second-captions", results(METRICS, caption_lines()))
    output = made.report()
    elements = Elements()
    elements.feed(page(output))
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids)) and {"experiment-first", "experiment-second"} <= set(ids)
    assert all(name in (output / "metrics.svg").read_text() for name in (">first<", ">second<"))


def test_a_language_model_has_bits_per_byte_baselines_and_samples(made: MadeProject, texts: Texts) -> None:
    made.make_all()
    made.small.configure(PARAMS, first={**EXPERIMENT, "task": "language_modelling", "model": {}})
    metrics = {
        "samples": 12,
        "split": "test",
        "tokens": 3456,
        "bytes": 12345,
        "bits_per_byte": {"value": 1.4321, "low": 1.41, "high": 1.45},
        "perplexity": {"value": None, "low": None, "high": None},
        "baselines": {"xz -9": 2.0186, "gzip -9": 2.3506, "token bigram": 1.588},
    }
    rows = [{"prompt": "And", "temperature": 0.7, "text": " <it> came to pass"}]
    files = {
        "metrics.json": json.dumps(metrics),
        "labels.json": language_labels(metrics).model_dump_json(exclude_defaults=True),
        "items.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    made.make("evaluate-first-language", files)
    html = page(made.report())
    shown = texts(html)
    assert "12 texts of the test split" in shown and "Perplexity – undefined" in shown
    assert all(number in shown for number in ("1.432", "1.410–1.450", "2.019", "2.351", "1.588", "12,345", "3,456"))
    table = shown[shown.index("System") :]
    assert table.index("1.432") < table.index("token bigram") < table.index("xz -9") < table.index("gzip -9")
    assert "By bits per byte the model (1.432) is better than its best control (token bigram, 1.588)." in shown
    assert "temperature 0.7" in shown and "&lt;it&gt; came to pass" in html


def test_a_loss_that_diverged_is_drawn_as_far_as_it_goes(made: MadeProject) -> None:
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": float("inf")}]
    made.make_all(log="".join(json.dumps(row) + "\n" for row in rows))
    assert "nan" not in (made.report() / "loss.svg").read_text().lower()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"log": '{"step": 1, "loss": 2}\n{"step": 2'}, r"metrics\.jsonl:2: not a JSON object"),
        ({"log": '{"step": 1, "loss": "low"}'}, r"metrics\.jsonl:1: loss: expected a number, found 'low'"),
        (
            {"log": '{"step": 1, "loss": 2, "learning_rate": 1}\n{"step": 2, "loss": 2}'},
            r"metrics\.jsonl: some training steps have a learning_rate and some have none",
        ),
        (
            {"log": '{"step": 1, "loss": 2}\n{"step": 2, "loss": 2, "learning_rate.head": 1}'},
            r"metrics\.jsonl: some training steps have a learning_rate\.head and some have none",
        ),
        ({"log": '{"step": 1, "loss": 2, "learning_rate.head": "1"}'}, r":1: learning_rate\.head: expected a number"),
        ({"rows": "[]\n"}, r"items\.jsonl:1: not a JSON object"),
        ({"rows": '{"key": 3}\n'}, r"items\.jsonl:1: expected a key"),
        ({"rows": '{"key": "a", "facts": {"beam": 1}}\n'}, r"items\.jsonl:1: facts: expected an object"),
        ({"metrics": {"samples": "many"}}, r"metrics\.json: samples: expected a count, found 'many'"),
        (
            {"metrics": {"systems": {"beam": {"cider": "3"}}}},
            r"metrics\.json: /systems/beam/cider: expected a number, or value, low and high, found '3'",
        ),
        ({"metrics": {"perplexity": {"value": 1}}}, r"metrics\.json: /perplexity: expected a number"),
    ],
)
def test_malformed_files_are_refused_by_place(made: MadeProject, files: dict[str, Any], message: str) -> None:
    made.make_all(**files)
    with pytest.raises(DataError, match=message):
        made.report()


def test_an_image_that_is_none_is_refused(made: MadeProject) -> None:
    made.make_all()
    (made.root / "results/first/captions/gallery/s1.png").write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(DataError, match=r"s1\.png: not a PNG"):
        made.report()


def test_an_input_without_manifest_is_refused(made: MadeProject) -> None:
    made.make_all()
    (made.root / "results/first/captions/manifest.json").unlink()
    with pytest.raises(ArtifactError, match="no manifest"):
        made.report()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("[", r"labels\.json: Invalid JSON"),
        ("{}", r"labels\.json: unit: Field required"),
        ('{"unit": "x", "colour": 1}', r"labels\.json: colour: Extra inputs are not permitted"),
        (
            '{"unit": "x", "table": {"columns": [], "rows": [{"name": "a", "title": "A", "cells": {"b": "/b"}}], "first": "a"}}',
            r"labels\.json: table: Value error, no column is called b",
        ),
    ],
)
def test_malformed_labels_are_refused(made: MadeProject, labels: str, message: str) -> None:
    made.make_all()
    (made.root / "results/first/captions/labels.json").write_text(labels)
    with pytest.raises(DataError, match=message):
        made.report()


def test_training_rows_show_supervised_text_by_colour_and_underline(made: MadeProject) -> None:
    """Pain 1 of instruction tuning: a wrong mask trains with a loss that looks normal, so a reader can see the mask."""
    base: dict[str, Any] = {
        "task": "language_modelling",
        "data": {"dataset": "scenes"},
        "training": {"steps": 1, "batch_size": 1, "micro_batches": 1},
        "evaluations": {},
    }
    tuned = {
        **base,
        "task": "instruction",
        "data": {"dataset": "scenes", "tokenizer": {"of": "base"}},
        "model": {"from": "base"},
    }
    made.small.configure(PARAMS, first=EXPERIMENT, base=base, tuned=tuned)
    made.make_all()
    for stage in ("train-base", "train-tuned"):
        made.make(stage, {"metrics.jsonl": training_log()})
    text = [[f"<|user|>{ATTACK}\n", 0.0], ["An <b>apple</b>.<|end|>", 1.0], ["half", 0.5]]
    rows = [{"row": number, "padding": 7 * number, "texts": [text]} for number in range(2)]
    made.make("pack-tuned", {"rows.json": json.dumps({"scenes": rows})})
    shown = page(made.report())
    assert '<ins class="supervised">An &lt;b&gt;apple&lt;/b&gt;.&lt;|end|&gt;</ins>' in shown
    assert '<ins class="supervised">half</ins><sup>× 0.5</sup>' in shown
    assert '<span class="context">&lt;|user|&gt;&lt;script&gt;' in shown and ATTACK not in shown
    assert shown.count('<pre class="row">') == 2 and "7 positions of padding" in shown
    [rule] = re.findall(r"\.supervised \{([^}]*)\}", shown)
    assert "underline" in rule
    for name in re.findall(r"var\((--\w+(?:-\w+)*)\)", rule):
        assert shown.count(f"{name}:") == 2, "a colour in both themes"
    broken = made.root / made.small.table["pack-tuned"].directory / "rows.json"
    broken.write_text('{"scenes": [[]]}')
    with pytest.raises(DataError, match=r"rows.json: not the rows of the stage `pack`"):
        made.report("again")
