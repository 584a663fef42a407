"""The routes of the page: its files, and answers as streams of JSON, an event a line."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from glassworks.demo.panels import Panel
from glassworks.demo.uploads import MAX_LETTERS, Memory, Refused, read_form
from glassworks.demo.worker import Event, Job, Worker
from glassworks.report.page import environment_of
from glassworks.web.guard import Guard
from glassworks.web.server import static_files

HELD = 16
"""Files of the largest size that all requests together may hold."""
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

    async def show(request: Request) -> Response:
        return HTMLResponse(page)

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
            static_files(HERE / "static"),
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
