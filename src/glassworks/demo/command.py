"""The start of `glassworks demo`: the address first, then the models, then the server."""

from collections.abc import Callable, Sequence
from pathlib import Path

from glassworks.web.address import check_packages, listen

PACKAGES = ("starlette", "uvicorn", "python_multipart")


def run(
    directories: Sequence[Path],
    host: str,
    port: int,
    max_megabytes: int,
    browse: bool,
    threads: int,
    show: Callable[[str], None],
    note: Callable[[str], None],
    project: Path,
) -> None:
    """Serve a page for the models until Ctrl-C. `show` gets its address, `browse` opens it in a browser.

    Raises `ConfigError` without the extra `demo`, `ResourceError` for an address that is not free, and the errors of the models.
    """
    check_packages("demo", PACKAGES)
    with listen(host, port) as listening:
        from glassworks.demo.panels import open_panels
        from glassworks.demo.server import application
        from glassworks.demo.worker import Worker
        from glassworks.web.server import serve_page

        unique = {directory.resolve(): directory for directory in directories}
        panels = [panel for directory in unique.values() for panel in open_panels(directory, project)]
        serve_page(
            lambda hosts, token, port: application(panels, Worker(threads), hosts, token, port, max_megabytes * 2**20),
            listening,
            host,
            browse,
            show,
            note,
            "use the models",
        )
