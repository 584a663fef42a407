"""The start of `glassworks demo`: the address first, then the models, then the server."""

import errno
import ipaddress
import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from glassworks.errors import ConfigError, ResourceError

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
    missing = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"glassworks demo needs {' and '.join(missing)}; install the extra: pip install 'glassworks[demo]'"
        )
    with listen(host, port) as listening:
        from glassworks.demo.guard import TOKEN, loopback_hosts
        from glassworks.demo.panels import open_panels
        from glassworks.demo.server import application, serve
        from glassworks.demo.worker import Worker

        address, port = listening.getsockname()[:2]
        local = ipaddress.ip_address(address).is_loopback
        token = None if local else secrets.token_urlsafe(24)
        unique = {directory.resolve(): directory for directory in directories}
        panels = [panel for directory in unique.values() for panel in open_panels(directory, project)]
        name = _name(host, address)
        app = application(panels, Worker(threads), loopback_hosts(name, port), token, port, max_megabytes * 2**20)
        url = f"http://{name}:{port}/" + (f"?{TOKEN}={token}" if token else "")
        show(f"{url}\n")
        if token:
            note("other machines reach this server; whoever has the address above can use the models")
        note("Ctrl-C ends the server")
        if browse:
            webbrowser.open(url)
        serve(app, listening)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises `ResourceError` for an address that is not free, `ConfigError` for an unknown host."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"--host {host}: no such host; 127.0.0.1 is this machine alone") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ResourceError(
                f"--port {port}: another program listens there; choose another port, or 0 for any free one"
            ) from None
        option = f"--host {host}" if error.errno == errno.EADDRNOTAVAIL else f"--port {port}"
        raise ResourceError(f"{option}: not available on this machine ({error.strerror})") from None
    return listening


def _name(host: str, address: str) -> str:
    """The name of the server in its address, where an IPv6 address has brackets."""
    if ipaddress.ip_address(address).is_unspecified:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
