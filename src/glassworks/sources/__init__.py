"""Data sources: one folder per published data set or layout, with the name that `source:` has in params.yaml.

`settings.py` holds the settings (a subclass of `Dataset`) and `CREDIT`. `source.py` implements `protocol.Source` by two functions:

    records(context) -> Iterator[Record | Dropped]     every sample, in an order that depends only on the raw files
    media(context) -> Callable[[Record], dict[str, bytes]]     opens the raw files once; then returns the media of a record by file extension

Both read raw files from `context.inputs["raw"]` or `context.local_path`. `records` checks that every image decodes. `media` copies bytes unchanged
(or renders drawn and composed data) and raises `DataError` when a file changed since it was fetched.

A source with finished tars implements `protocol.TarSource`. Instead of `media`, it has `ready_made(context) -> Callable[[str], tuple[Path, str]]`,
which returns a function from the name of a tar to its path and sha256.

A source that can cut its samples into independent parts implements `protocol.PartedSource`: `parts(context)` returns a function for each part. Its
settings have `record_jobs`, and jobs make the parts in parallel.
"""
