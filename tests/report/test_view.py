"""results/report.html: the report with this machine's timings in the place kept for them."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from glassworks.errors import ArtifactError
from glassworks.report.page import TIMINGS_END, TIMINGS_START, Page, render_page
from glassworks.report.view import write_view

from .conftest import MadeProject

Texts = Callable[[str], str]


@pytest.fixture
def reported(made: MadeProject) -> MadeProject:
    """A project with a report in place and no provenance yet."""
    made.make_all()
    page = Page(title="Glass", params={"seed": 0}, data=[], weights=[], sections=[], artefacts=[])
    made.make("report", {"report.html": render_page(page)})
    return made


def note(made: MadeProject, stage: str, **more: Any) -> None:
    folder = made.root / "provenance"
    folder.mkdir(exist_ok=True)
    content = {
        "stage": stage,
        "key": f"key-of-{stage}",
        "started": "2026-05-04T03:02:01Z",
        "seconds": 61.4,
        "peak_memory_bytes": 1_500_000_000,
        "host": "<node>",
        "platform": "Linux",
        "cores": 8,
        "git_revision": "0123456789abcdef0123456789abcdef01234567+changes",
        **more,
    }
    (folder / f"{stage}.json").write_text(json.dumps(content))


def view(made: MadeProject) -> str:
    path = write_view(made.root, made.small.table)
    assert path == made.root / "results/report.html"
    return path.read_text()


def test_timings_take_the_place_of_the_marker(reported: MadeProject, texts: Texts) -> None:
    note(reported, "train-first", resumed_after_step=120)
    text = view(reported)
    assert TIMINGS_START not in text and TIMINGS_END not in text
    shown = texts(text)
    row = shown[shown.index("train-first resumed after step 120") :]
    assert "1 min 01 s 1.5 GB <node> 8 2026-05-04 03:02:01 UTC 0123456789ab+changes" in row
    assert "fetch-openmoji not made" in shown and "shards-scenes made elsewhere" in shown
    assert shown.endswith("whose digests stand above.")


def test_the_artefact_stays_as_it_was_and_holds_no_timing(reported: MadeProject) -> None:
    artefact = reported.root / "results/report/report.html"
    before = artefact.read_bytes()
    note(reported, "train-first")
    view(reported)
    assert artefact.read_bytes() == before and b"2026-05-04" not in before


def test_the_rest_of_the_page_is_the_same(reported: MadeProject) -> None:
    artefact = (reported.root / "results/report/report.html").read_text()
    text = view(reported)
    assert text.startswith(artefact.partition(TIMINGS_START)[0])
    assert text.endswith(artefact.partition(TIMINGS_END)[2])


def test_a_timing_of_another_run_is_not_shown(reported: MadeProject, texts: Texts) -> None:
    note(reported, "train-first", key="another")
    shown = texts(view(reported))
    assert "train-first made elsewhere or at another time" in shown


def test_an_accepted_artefact_keeps_its_timing_and_says_so(reported: MadeProject, texts: Texts) -> None:
    note(reported, "train-first", key="older", accepted=[{"from": "older", "to": "key-of-train-first"}])
    assert "train-first accepted after 1 change of code 1 min 01 s" in texts(view(reported))


@pytest.mark.parametrize("content", ["", "[]", '{"key": "key-of-train-first", "seconds": "long", "accepted": 3}'])
def test_unreadable_provenance_is_no_obstacle(reported: MadeProject, content: str) -> None:
    note(reported, "train-first")
    (reported.root / "provenance/train-first.json").write_text(content)
    assert "train-first" in view(reported)


def test_without_a_report_there_is_no_view(made: MadeProject) -> None:
    assert write_view(made.root, made.small.table) is None
    assert not (made.root / "results/report.html").exists()


def test_a_report_without_a_place_for_timings_is_refused(reported: MadeProject) -> None:
    artefact = reported.root / "results/report/report.html"
    artefact.write_text(artefact.read_text().replace(TIMINGS_END, ""))
    with pytest.raises(ArtifactError, match="no place for timings"):
        write_view(reported.root, reported.small.table)


def test_view_is_light_to_import() -> None:
    heavy = {"matplotlib", "torch", "numpy", "pandas", "pycocoevalcap"}
    code = f"import sys, glassworks.report.view; sys.exit(str({heavy} & set(sys.modules) or ''))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""
