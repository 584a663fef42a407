"""HTTP sessions that reach only public addresses, unless private ones are allowed.

The address is checked on the socket, after name resolution and before any data is sent, and again for every redirect. A
name that resolves to a private address is refused like the address. Only http and https are supported. Certificates
come from the system and from certifi, or from `certificate`. A proxy resolves names itself, so behind a proxy only
literal private addresses are refused.
"""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NameResolutionError
from urllib3.util.retry import Retry

from glassworks.errors import FetchError

# Not `ipaddress.is_private`, which includes the ranges reserved for documentation.
PRIVATE = tuple(
    ipaddress.ip_network(block)
    for block in (
        *(
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
        ),
        *("::/128", "::1/128", "fc00::/7", "fe80::/10"),
    )
)


NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv6 addresses that a gateway translates to the IPv4 address in their last 32 bits."""


def is_private(address: str) -> bool:
    """Whether an IP address is loopback, link-local or inside a private network, also written as IPv6."""
    number = ipaddress.ip_address(address.split("%")[0])
    if isinstance(number, ipaddress.IPv6Address):
        inner = number.ipv4_mapped or number.sixtofour
        if number in NAT64:
            inner = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        number = inner or number
    return any(number in network for network in PRIVATE)


def leads_inside(url: str) -> bool:
    """Whether the host of `url` is, or resolves to, a private address; False when it does not resolve."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(is_private(str(entry[4][0])) for entry in found)


def open_session(
    allow_private: bool = False,
    certificate: str | None = None,
    trusted_hosts: tuple[str, ...] = (),
    retries: Retry | None = None,
    proxy: str | None = None,
) -> requests.Session:
    """A session for http and https. Certificates of `trusted_hosts` (HOST or HOST:PORT, pip's trusted-host) are not
    verified.
    """
    session = requests.Session()
    session.max_redirects = 10
    session.proxies = {"http": proxy, "https": proxy} if proxy else {}
    session.adapters.clear()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(allow_private, certificate, retries))
    for host in trusted_hosts:
        for end in ("/",) if ":" in host else ("/", ":"):
            session.mount(f"https://{host}{end}", _Adapter(allow_private, False, retries))
    return session


def plainly(error: Exception, url: str) -> str:
    """A short description of a failed request, without credentials."""
    place = shown(url)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{place}: the server answers {error.response.status_code} {error.response.reason}".rstrip()
    if isinstance(error, requests.exceptions.SSLError):
        remedy = "if your network has a certificate of its own, set pip's `cert` to its file"
        return f"{place}: no secure connection ({_root(error)}); {remedy}"
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return f"{place}: too many redirects"
    if isinstance(
        error, requests.exceptions.InvalidSchema | requests.exceptions.InvalidURL | requests.exceptions.MissingSchema
    ):
        return f"{place}: leads to an address that is not http or https"
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(reason, NameResolutionError):
        return f"{place}: the name {urlsplit(url).hostname} cannot be resolved; is there a network?"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"{place}: no answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return f"{place}: the connection broke off"
    return f"{place}: {_root(error)}"


def shown(url: str) -> str:
    """A URL for messages: without user, password, query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _root(error: BaseException) -> str:
    """The message of the innermost cause of a chain of network errors."""
    while True:
        wrapped = (getattr(error, "reason", None), error.__cause__, *error.args)
        inner = next((candidate for candidate in wrapped if isinstance(candidate, BaseException)), None)
        if inner is None:
            return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]
        error = inner


_OPENED = threading.local()
"""`sockets`: those that this thread has opened inside `time_limit`."""


@contextmanager
def time_limit(seconds: float) -> Iterator[threading.Event]:
    """Shut down the connections that this thread opens inside, once `seconds` are over.

    Time limits of requests are those of single reads: a server that sends a byte now and then passes them. The event is
    set when the time is over. A connection that was open before is not shut down: open the session inside.
    """
    sockets: list[socket.socket] = []
    over = threading.Event()

    def end() -> None:
        over.set()
        for opened in list(sockets):
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    _OPENED.sockets, _OPENED.over = sockets, over
    timer.start()
    try:
        yield over
    finally:
        timer.cancel()
        _OPENED.sockets = _OPENED.over = None
        for opened in sockets:
            opened.close()


class _Timed:
    """Mixin of urllib3's connections: notes a new socket for `time_limit`."""

    def _new_conn(self) -> socket.socket:
        connected: socket.socket = super()._new_conn()  # type: ignore[misc]
        if (sockets := getattr(_OPENED, "sockets", None)) is not None:
            sockets.append(connected.dup())  # TLS takes the first one over; both are one connection
            if _OPENED.over.is_set():
                connected.shutdown(socket.SHUT_RDWR)
        return connected


class _Guard(_Timed):
    """Mixin of urllib3's connections: checks the peer address of a new socket before any data is sent."""

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        address = connected.getpeername()[0]
        if is_private(address):
            connected.close()
            raise _refusal(self.host, address)  # type: ignore[attr-defined]
        return connected


def _refusal(host: str, address: str) -> FetchError:
    which = host if host == address else f"{host} ({address})"
    return FetchError(f"{which} is a private address; downloads go to public ones only")


class _TimedHTTP(_Timed, HTTPConnection):
    pass


class _TimedHTTPS(_Timed, HTTPSConnection):
    pass


class _GuardedHTTP(_Guard, HTTPConnection):
    pass


class _GuardedHTTPS(_Guard, HTTPSConnection):
    pass


class _PoolHTTP(HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP


class _PoolHTTPS(HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS


class _OpenPoolHTTP(HTTPConnectionPool):
    ConnectionCls = _TimedHTTP


class _OpenPoolHTTPS(HTTPSConnectionPool):
    ConnectionCls = _TimedHTTPS


@cache
def _system_certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


@cache
def _add_certificates(file: str | None, folder: str | None) -> None:
    """Add certificates to those of the system."""
    _system_certificates().load_verify_locations(file, folder)


class _Adapter(HTTPAdapter):
    def __init__(self, allow_private: bool, certificate: str | bool | None, retries: Retry | None) -> None:
        self.allow_private, self.certificate = allow_private, certificate
        super().__init__(max_retries=retries or 0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, **self._certificates())
        pools = (_OpenPoolHTTP, _OpenPoolHTTPS) if self.allow_private else (_PoolHTTP, _PoolHTTPS)
        self.poolmanager.pool_classes_by_scheme = dict(zip(("http", "https"), pools, strict=True))

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, **self._certificates())

    def _certificates(self) -> dict[str, Any]:
        """The system's certificates; `cert_verify` adds certifi's, or those of REQUESTS_CA_BUNDLE."""
        return {"ssl_context": _system_certificates()} if self.certificate is None else {}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Read the certificates that requests names once, not for every connection: that takes longer than an image."""
        super().cert_verify(conn, url, verify, cert)
        if self.certificate is None and (given := (conn.ca_certs, conn.ca_cert_dir)) != (None, None):
            _add_certificates(*given)
            conn.ca_certs = conn.ca_cert_dir = None

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        host = urlsplit(request.url or "").hostname or ""
        if not self.allow_private and _is_private_literal(host):  # also behind a proxy
            raise _refusal(host, host)
        if self.certificate is not None:
            options["verify"] = self.certificate
        return super().send(request, **options)


def _is_private_literal(host: str) -> bool:
    try:
        return host == "localhost" or is_private(host)
    except ValueError:
        return False
