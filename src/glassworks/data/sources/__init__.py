"""One module per published data set.

A source module has two functions:

    records(context) -> Iterator[Record | Dropped]     every sample of the data set, in an order that depends on nothing but the raw files
    media(context) -> Callable[[Record], dict[str, bytes]]     opens the raw files once; then gives the media of a record by file extension

Both read raw files from `context.inputs["raw"]` or `context.local_path`. `records` sees that every image decodes; `media` copies bytes as they are
(or renders them, for drawn and composed data) and raises `DataError` when a file changed since it was fetched.

A source that has finished tars gives, instead of `media`, `ready_made(context) -> Callable[[str], tuple[Path, str]]`: the path and sha256 of a tar by its name.
"""

import importlib
from types import ModuleType


def source_module(name: str) -> ModuleType:
    """The module of a source by the name that params.yaml uses."""
    return importlib.import_module(f"{__name__}.{name}")
