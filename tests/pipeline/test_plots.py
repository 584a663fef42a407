"""The page of `dvc plots` needs no network."""

import configparser
import re

from dvc_render.html import render_html
from dvc_render.vega import VegaRenderer

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
