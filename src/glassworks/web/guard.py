"""The middleware before every request: who may ask, and the headers of every response."""

import secrets
from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "Cache-Control": "no-store",
}
TOKEN = "token"
"""The parameter of the address that holds the token."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def loopback_hosts(host: str, port: int) -> frozenset[str]:
    """The values of the header Host by which a browser on this machine reaches the server."""
    names = {host.lower(), *LOOPBACK}
    return frozenset(f"{name}:{port}" for name in names) | (frozenset(names) if port == 80 else frozenset())


class Guard:
    """Refuses requests of other sites.

    Without a token, the header Host must be in `hosts`: a foreign name that resolves to this machine is refused (DNS rebinding). With a token, every
    request must have it: in the address once, then in a cookie. A POST must come from the page itself.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], token: str | None, port: int) -> None:
        self.app, self.hosts, self.token = app, hosts, token
        self.cookie = f"glassworks-{port}"  # cookies do not tell ports apart

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no websockets
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (self._refused(scope) or self.app)(scope, receive, send_with_headers)

    def _refused(self, scope: Scope) -> Response | None:
        """The response to a request that may not pass, or that brings its token in the address."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if self.token is None and host not in self.hosts:
            return PlainTextResponse("this server is not known by that name; open the address that it printed\n", 421)
        if self.token is not None:
            [given] = parse_qs(scope["query_string"].decode("latin-1")).get(TOKEN, [""])[:1]
            if self._is_token(given):
                response = RedirectResponse("/", 303)
                response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
                return response
            if not self._is_token(cookie_parser(headers.get("cookie", "")).get(self.cookie, "")):
                return PlainTextResponse("open the address with the token that the server printed\n", 401)
        if scope["method"] not in ("GET", "HEAD"):
            origin, site = headers.get("origin", ""), headers.get("sec-fetch-site", "same-origin")
            if origin.lower() != f"http://{host}" or site != "same-origin":
                return PlainTextResponse("the request comes from another site\n", 403)
        return None

    def _is_token(self, given: str) -> bool:
        return self.token is not None and secrets.compare_digest(given.encode(), self.token.encode())
