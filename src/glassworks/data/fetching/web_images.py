"""Download of one image by its URL from a host that may be slow, broken or hostile: an image, or the reason why not.

Every redirect is followed by hand: scheme, address, robots.txt and the headers are checked again at each hop.
"""

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import NamedTuple
from urllib.parse import SplitResult, urldefrag, urljoin, urlsplit

import requests
import urllib3
from PIL import Image, UnidentifiedImageError
from urllib3.exceptions import NameResolutionError

from glassworks import __version__
from glassworks.config.datasets import Downloads
from glassworks.data.fetching.download import CHUNK, PASSING
from glassworks.data.fetching.http_session import open_session, time_limit
from glassworks.data.fetching.robots import LONGEST, Robots, opt_out
from glassworks.data.file_kinds import describe
from glassworks.data.reading.pixels import FORMATS
from glassworks.errors import FetchError

AGENT = "glassworks"
"""Product token, by which robots.txt and X-Robots-Tag address this program."""
HOPS = 5
REDIRECTS = {301, 302, 303, 307, 308}
ADDRESS_FAULTS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    urllib3.exceptions.LocationParseError,
    UnicodeError,
)
WAITING = {429, 503}
"""HTTP status codes whose Retry-After holds for the whole host."""


class Failed(Exception):
    """An image that cannot be had. `str(error)` is the reason: the same for the same behaviour of the server."""


class Passing(Failed):
    """A failure that may pass."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds for which the host asks to be left alone, if it does."""


class Wanted(NamedTuple):
    """An image to download."""

    url: str
    sha256: str | None = None
    """The published digest, if it is to be checked."""
    fault: str = ""
    """A reason not to download it."""


@dataclass
class WebImages:
    """Downloads images. Its methods may be called from any thread."""

    downloads: Downloads
    max_bytes: int
    allow_private: bool = False
    robots: bool = True
    _known: dict[str, Robots] = field(default_factory=dict)
    """robots.txt by origin."""
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _own: threading.local = field(default_factory=threading.local)
    """`session` of each thread."""

    def get(self, wanted: Wanted) -> bytes:
        """The bytes of an image. Raises `Failed`."""
        with self._opened() as session:
            body = self._follow(session, wanted.url)
        if wanted.sha256 and (found := hashlib.sha256(body).hexdigest()) != wanted.sha256.lower():
            raise Failed(f"another sha256 than published: {found}")
        _check_header(body)
        return body

    def read_robots(self, url: str) -> None:
        """Read the robots.txt of the host of `url`, for all its images. Raises `Failed`."""
        with self._opened() as session:
            self._rules(session, origin_of(url))

    @contextmanager
    def _opened(self) -> Iterator[requests.Session]:
        """The session of this thread, for one attempt with its time limit."""
        if not hasattr(self._own, "session"):
            self._own.session = self._session()  # reads the certificates, which takes longer than an image
        with time_limit(self.downloads.total_seconds) as over:
            try:
                yield self._own.session
            except Failed:
                if over.is_set():
                    raise Passing("no answer in time") from None
                raise
            finally:
                self._own.session.close()  # the time limit covers connections that were opened inside it

    def _session(self) -> requests.Session:
        session = open_session(self.allow_private)
        session.headers["User-Agent"] = user_agent(self.downloads.contact)
        session.headers["Accept"] = "image/*,*/*;q=0.5"
        session.headers["Accept-Encoding"] = "identity"
        session.headers["Connection"] = "close"
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.auth = lambda request: request  # no passwords of ~/.netrc
        return session

    def _follow(self, session: requests.Session, url: str) -> bytes:
        """The body behind `url`, after at most `HOPS` redirects."""
        for _ in range(HOPS + 1):
            self._check_robots(session, url)
            with self._request(session, url) as response:
                directive = opt_out(response.raw.headers.getlist("X-Robots-Tag"), AGENT) if self.robots else None
                if directive:
                    raise Failed(f"opt-out: X-Robots-Tag: {directive}")
                if response.status_code not in REDIRECTS or "Location" not in response.headers:
                    _check_status(response)
                    return self._body(response, self.max_bytes)
                url = urldefrag(urljoin(url, response.headers["Location"])).url
        raise Failed("too many redirects")

    def _check_robots(self, session: requests.Session, url: str) -> None:
        """Raise `Failed` if the robots.txt of the host excludes `url`."""
        origin = origin_of(url)
        if self.robots and not self._rules(session, origin).allows(url):
            raise Failed("opt-out: robots.txt disallows it")

    def _rules(self, session: requests.Session, origin: str) -> Robots:
        """The robots.txt of an origin, which is read once."""
        with self._locks.setdefault(origin, threading.Lock()):
            if origin not in self._known:
                self._known[origin] = Robots(self._robots_of(session, origin), AGENT)
            return self._known[origin]

    def _robots_of(self, session: requests.Session, origin: str) -> str:
        """The text of a robots.txt; empty where the answer is a 4xx. A server that cannot answer allows nothing (RFC 9309)."""
        url = f"{origin}/robots.txt"
        for _ in range(HOPS + 1):
            with self._request(session, url) as response:
                if response.status_code in REDIRECTS and "Location" in response.headers:
                    url = urljoin(url, response.headers["Location"])
                    continue
                if response.status_code in PASSING or response.status_code >= 500:
                    _check_status(response)
                if response.status_code != 200:
                    return ""
                return self._body(response, LONGEST, cut=True).decode(errors="replace")
        return ""

    def _request(self, session: requests.Session, url: str) -> requests.Response:
        """The answer to one request, its body unread, without redirects."""
        origin_of(url)
        limits = (self.downloads.connect_seconds, self.downloads.read_seconds)
        try:
            request = session.prepare_request(requests.Request("GET", url))
            options = session.merge_environment_settings(request.url or url, {}, True, None, None)
            # not `session.send`, which reads the whole body of a redirect
            return session.get_adapter(request.url or url).send(request, timeout=limits, **options)
        except FetchError:  # the guard of http_session
            raise Failed("private address") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _plain(error) from None

    def _body(self, response: requests.Response, limit: int, cut: bool = False) -> bytes:
        """The body of an answer of at most `limit` bytes. A longer one is cut off there, or refused before it is read."""
        length = response.headers.get("Content-Length", "")
        if not cut and length.isdigit() and int(length) > limit:
            raise Failed(f"larger than max_bytes ({limit:,})")
        body = bytearray()
        try:
            for chunk in response.raw.stream(CHUNK, decode_content=True):
                body += chunk
                if len(body) > limit:
                    if cut:
                        return bytes(body[:limit])
                    raise Failed(f"larger than max_bytes ({limit:,})")
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _plain(error) from None
        return bytes(body)


def user_agent(contact: str | None) -> str:
    """The header User-Agent."""
    return f"{AGENT}/{__version__}" + (f" ({contact})" if contact else "")


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL. Raises `Failed` unless it is one of http or https."""
    parts = _split(url)
    return f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}"


def host_of(url: str) -> str:
    """The name of the host of a URL. Raises `Failed` unless it is one of http or https."""
    return str(_split(url).hostname)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Failed("no http or https address")
    return parts


def _check_status(response: requests.Response) -> None:
    """Raise `Failed` unless the status is 200."""
    status = response.status_code
    if status in PASSING:
        raise Passing(
            f"HTTP {status}", _retry_after(response.headers.get("Retry-After")) if status in WAITING else None
        )
    if status != 200:
        raise Failed(f"HTTP {status}")


def _retry_after(value: str | None) -> float | None:
    """The seconds of a Retry-After: a number, or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value[:9])
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    zoned = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (zoned - datetime.now(UTC)).total_seconds())


def _plain(error: Exception) -> Failed:
    """A failed request as a reason without addresses and times."""
    if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
        return Failed("no secure connection")
    if isinstance(getattr(error.args[0] if error.args else None, "reason", None), NameResolutionError):
        return Passing("the name of the host cannot be resolved")
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return Passing("no answer in time")
    if isinstance(error, requests.ConnectionError | urllib3.exceptions.ProtocolError):
        return Passing("the connection failed")
    if isinstance(error, ADDRESS_FAULTS):
        return Failed("no http or https address")
    if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | ValueError):
        return Failed("the answer cannot be read")
    return Passing("the connection failed")


def _check_header(body: bytes) -> None:
    """Raise `Failed` unless the header of an image decodes."""
    try:
        with Image.open(io.BytesIO(body), formats=list(FORMATS)) as opened:
            width, height = opened.size
    except UnidentifiedImageError:
        kind = describe(body)
        raise Failed(f"no image{f': it is {kind}' if kind else ''}") from None
    except Exception:  # decoders raise almost anything on broken bytes
        raise Failed("no image: its header is damaged") from None
    if not width or not height:
        raise Failed("no image: it has no pixels")
