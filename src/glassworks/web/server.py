"""Serves a page until Ctrl-C: its address with a token, its files, and the web server."""

import ipaddress
import secrets
import socket
import webbrowser
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from glassworks.report.page import TEMPLATES
from glassworks.web.address import name_of
from glassworks.web.guard import TOKEN, loopback_hosts

CONNECTIONS = 256
TYPES = {".css": "text/css", ".js": "text/javascript"}
SHARED = (TEMPLATES / "page.css", *sorted((Path(__file__).parent / "static").iterdir()))
"""The style of the report, and the controls of all pages."""

Application = Callable[[Collection[str], str | None, int], Starlette]
"""The page for the hosts, the token and the port of `Guard`."""


def static_files(folder: Path) -> Route:
    """The route of the shared files and those of a folder, which are read now."""
    found = {path.name: (TYPES[path.suffix], path.read_bytes()) for path in (*SHARED, *folder.iterdir())}

    async def file(request: Request) -> Response:
        kind, content = found.get(request.path_params["name"], ("", b""))
        return Response(content, media_type=kind) if kind else PlainTextResponse("no such file\n", 404)

    return Route("/static/{name}", file)


def serve_page(
    application: Application,
    listening: socket.socket,
    host: str,
    browse: bool,
    show: Callable[[str], None],
    note: Callable[[str], None],
    power: str,
) -> None:
    """Serve a page until Ctrl-C. `show` gets its address, `browse` opens it in a browser.

    An address that other machines reach has a token; `power` says what its owner can do.
    """
    address, port = listening.getsockname()[:2]
    token = None if ipaddress.ip_address(address).is_loopback else secrets.token_urlsafe(24)
    name = name_of(host, address)
    app = application(loopback_hosts(name, port), token, port)
    url = f"http://{name}:{port}/" + (f"?{TOKEN}={token}" if token else "")
    show(f"{url}\n")
    if token:
        note(f"other machines reach this server; whoever has the address above can {power}")
    note("Ctrl-C ends the server")
    if browse:
        webbrowser.open(url)
    serve(app, listening)


class _Server(uvicorn.Server):
    """Ends at the first Ctrl-C, whatever requests are open."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.force_exit = True


def serve(app: Starlette, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, which are raised again."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        http="h11",
        log_level="warning",
        access_log=False,  # the address holds the token
        server_header=False,
        limit_concurrency=CONNECTIONS,
    )
    _Server(config).run(sockets=[listening])
