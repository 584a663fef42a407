"""The web server of the page: its files, and answers as streams of JSON, an event a line."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from glassworks.demo.guard import Guard
from glassworks.demo.panels import Panel
from glassworks.demo.uploads import MAX_LETTERS, Memory, Refused, read_form
from glassworks.demo.worker import Event, Job, Worker
from glassworks.report.page import TEMPLATES, environment_of

HELD = 16
"""Files of the largest size that all requests together may hold."""
CONNECTIONS = 256
HERE = Path(__file__).parent


class Stream(StreamingResponse):
    """A response that calls `close` when it ends, however it ends."""

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None]) -> None:
        super().__init__(events, media_type="application/x-ndjson")
        self.close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.close()


def application(
    panels: Sequence[Panel], worker: Worker, hosts: Collection[str], token: str | None, port: int, max_bytes: int
) -> Starlette:
    """The page with its panels. `hosts` and `token` are those of `Guard`, `max_bytes` is the limit of an upload."""
    page, memory = render(panels, max_bytes), Memory(HELD * max_bytes)
    static = {
        "page.css": ("text/css", (TEMPLATES / "page.css").read_bytes()),
        "demo.css": ("text/css", (HERE / "static/demo.css").read_bytes()),
        "demo.js": ("text/javascript", (HERE / "static/demo.js").read_bytes()),
    }

    async def show(request: Request) -> Response:
        return HTMLResponse(page)

    async def file(request: Request) -> Response:
        found = static.get(request.path_params["name"])
        return Response(found[1], media_type=found[0]) if found else PlainTextResponse("no such file\n", 404)

    async def answer(request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(panels):
            return PlainTextResponse("no such panel\n", 404)
        with ExitStack() as stack:
            take = stack.enter_context(memory.reserved())
            try:
                if worker.full:
                    raise Refused(503, "too many requests are waiting; try again in a moment")
                form = await read_form(request.headers, request.stream(), max_bytes, take)
            except Refused as error:
                return PlainTextResponse(f"{error}\n", error.status)
            except ClientDisconnect:
                return PlainTextResponse("", 400)
            events: asyncio.Queue[Event | None] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def send(event: Event | None) -> None:
                with suppress(RuntimeError):  # the server has ended
                    loop.call_soon_threadsafe(events.put_nowait, event)

            job = Job(partial(panels[number].answer, form), send)
            stack.callback(worker.cancel, job)
            worker.add(job)
            return Stream(_lines(events), stack.pop_all().close)

    return Starlette(
        routes=[
            Route("/", show),
            Route("/static/{name}", file),
            Route("/panels/{number:int}", answer, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts, token=token, port=port)],
    )


async def _lines(events: "asyncio.Queue[Event | None]") -> AsyncIterator[str]:
    while (event := await events.get()) is not None:
        yield json.dumps(event, ensure_ascii=True) + "\n"


def render(panels: Sequence[Panel], max_bytes: int) -> str:
    """The page as HTML."""
    environment = environment_of(HERE / "templates")
    return environment.get_template("demo.html.j2").render(panels=panels, max_bytes=max_bytes, max_letters=MAX_LETTERS)


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
