"""The start of `glassworks watch`: a page until Ctrl-C, or a view in the terminal."""

from collections.abc import Callable
from pathlib import Path

from glassworks.watch.observer import Observer
from glassworks.web.address import check_packages, listen

PACKAGES = ("starlette", "uvicorn")


def run(
    root: Path, host: str, port: int, browse: bool, show: Callable[[str], None], note: Callable[[str], None]
) -> None:
    """Serve a page over the project in `root` until Ctrl-C. `show` gets its address, `browse` opens it in a browser.

    Raises `ConfigError` without the extra `demo` and for a project with a fault, `ResourceError` for an address that is not free.
    """
    check_packages("watch", PACKAGES)
    observer = Observer(root)
    with listen(host, port) as listening:
        from glassworks.watch.server import application
        from glassworks.web.server import serve_page

        serve_page(
            lambda hosts, token, port: application(observer, hosts, token, port),
            listening,
            host,
            browse,
            show,
            note,
            "see the project",
        )
