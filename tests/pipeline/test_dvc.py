"""DVC beside the pipeline: the page of `dvc plots` needs no network, and an error of DVC is its cause."""

import configparser
import re

from dvc_render.html import render_html
from dvc_render.vega import VegaRenderer

from glassworks.pipeline.dvc import cause, in_git

from ..small_pipeline import REPOSITORY


def test_the_page_of_plots_holds_the_libraries_that_dvc_would_load(tmp_path):
    config = configparser.ConfigParser()
    config.read(REPOSITORY / ".dvc/config")
    template = REPOSITORY / ".dvc" / config["plots"]["html_template"]
    points = [{"step": step, "loss": 1 / step, "rev": "main"} for step in (1, 2, 3)]
    curve = VegaRenderer(points, "loss", x="step", y="loss", anchors_y_definitions=[{"filename": "a", "field": "loss"}])
    page = (tmp_path / "index.html", template)
    text = page[0].parent.joinpath(render_html([curve], *page)).read_text()
    assert "vegaEmbed('#" in text
    assert not re.search(r"<(script|link)[^>]+(src|href)=", text), "nothing is loaded"
    libraries = re.findall(r"npm/([\w-]+)@([\d.]+)", VegaRenderer.SCRIPTS)
    assert len(libraries) == 3
    for name, version in libraries:
        assert f"<script>/* {name} {version}\n" in text


def test_the_cause_of_an_error_of_dvc_is_told_without_its_advice():
    output = (
        "ERROR: unexpected error - [Errno 30] Read-only file system: '/p/.dvc/cache/files/md5/aa'\n\n"
        "Having any troubles? Hit us up at https://dvc.org/support, we are always happy to help!\n"
    )
    assert cause(output) == "[Errno 30] Read-only file system: '/p/.dvc/cache/files/md5/aa'"
    assert cause("ERROR: failed to commit\n") == "failed to commit"
    assert cause("WARNING: 'a/__init__.py' is empty.\nkilled\n") == "killed"
    assert cause("") == "failed"


def test_a_folder_is_in_git_or_not(tmp_path):
    assert not in_git(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / "a/b").mkdir(parents=True)
    assert in_git(tmp_path / "a/b")
