"""The routes of the page: its files, the state of the project and of a stage as JSON."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from glassworks.report.page import environment_of
from glassworks.watch.observer import Observer
from glassworks.watch.wording import GLYPHS, KINDS, WORDS
from glassworks.web.guard import Guard
from glassworks.web.server import static_files

HERE = Path(__file__).parent


def application(observer: Observer, hosts: Collection[str], token: str | None, port: int) -> Starlette:
    """The page of a project. `hosts` and `token` are those of `Guard`."""
    page = render(observer)

    async def show(request: Request) -> Response:
        return HTMLResponse(page)

    async def state(request: Request) -> Response:
        return await _answer(observer.summary)

    async def stage(request: Request) -> Response:
        return await _answer(lambda: observer.details(request.path_params["name"]))

    return Starlette(
        routes=[
            Route("/", show),
            static_files(HERE / "static"),
            Route("/state", state),
            Route("/stages/{name}", stage),
        ],
        middleware=[Middleware(Guard, hosts=hosts, token=token, port=port)],
    )


async def _answer(ask: Callable[[], dict[str, Any] | None]) -> Response:
    """What the observer says, as JSON. It reads files, so it is asked in a thread."""
    found = await run_in_threadpool(ask)
    if found is None:
        return PlainTextResponse("no such stage\n", 404)
    return Response(json.dumps(found, allow_nan=False), media_type="application/json")


def render(observer: Observer) -> str:
    """The page as HTML, without the state of the project."""
    template = environment_of(HERE / "templates").get_template("watch.html.j2")
    return template.render(project=observer.root.resolve().name, words=WORDS, glyphs=GLYPHS, kinds=KINDS)
