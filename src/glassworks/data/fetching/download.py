"""Download of one file with a known digest: delivers exactly that file, or raises.

An interrupted download leaves its part in the partial folder, and the next attempt requests only the rest. Refuses private
addresses unless allowed, protocols other than http and https, and files that are larger or slower than the limits.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import requests
import urllib3

from glassworks.artifacts.digests import disk_errors, sha256_file
from glassworks.data.fetching.http_session import open_session, plainly, shown
from glassworks.errors import FetchError
from glassworks.progress import Progress

CHUNK = 1 << 16
DELAYS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each retry. An attempt that received new bytes resets the schedule."""
PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP status codes worth a retry."""


class _Passing(Exception):
    """A failure worth a retry; the message is the reason."""


def download(
    url: str,
    target: Path,
    digest: str,
    partial: Path,
    *,
    digest_of: Callable[[Path], str] = sha256_file,
    session: requests.Session | None = None,
    allow_private: bool = False,
    max_bytes: int = 20 << 30,
    max_seconds: float = 6 * 3600,
    stall_seconds: float = 60,
    delays: tuple[float, ...] = DELAYS,
) -> None:
    """Download `url` to `target`, through a file in the folder `partial` (on the same disk).

    Raises `FetchError` when the network, the name, the server or the certificate fails, and when a limit is reached. Raises it,
    too, when the digest of the file differs from `digest`, and deletes the bad part. Raises `ResourceError` when the disk is full.
    """
    partial.mkdir(parents=True, exist_ok=True)
    part = partial / f"{digest[:16]}-{target.name}.part"
    session = session or open_session(allow_private)
    deadline = time.monotonic() + max_seconds
    continued = part.exists()
    while True:
        with disk_errors(part):
            _transfer(url, part, session, target.name, max_bytes, deadline, stall_seconds, delays)
        found = digest_of(part)
        if found == digest:
            part.replace(target)
            _mark(part).unlink(missing_ok=True)
            return
        kind, size = "sha256" if digest_of is sha256_file else "digest", part.stat().st_size
        part.unlink()
        if not continued:
            raise FetchError(
                f"{target.name} ({shown(url)}): expected {kind} {digest}, found {found} ({size:,} bytes); "
                f"the download was deleted: correct the pinned digest, or ask who publishes the file"
            )
        continued = False  # the earlier part may belong to another file: restart once


def _transfer(
    url: str,
    part: Path,
    session: requests.Session,
    name: str,
    max_bytes: int,
    deadline: float,
    stall: float,
    delays: tuple[float, ...],
) -> None:
    """Complete `part`, with the retries that the schedule allows."""
    tries = 0
    while True:
        before = _size(part)
        try:
            return _attempt(url, part, session, name, max_bytes, deadline, stall)
        except _Passing as failure:
            tries = 1 if _size(part) > before else tries + 1
            if tries > len(delays):
                kept = f"; {_size(part):,} bytes are kept and the same command continues" if _size(part) else ""
                raise FetchError(f"{name}: {failure} (attempt {tries}){kept}") from None
            print(f"{name}: {failure}; trying again in {delays[tries - 1]:g} s", file=sys.stderr, flush=True)
            time.sleep(delays[tries - 1])


def _attempt(
    url: str, part: Path, session: requests.Session, name: str, max_bytes: int, deadline: float, stall: float
) -> None:
    have = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _mark(part).exists():
            headers["If-Range"] = _mark(part).read_text()
    try:
        with session.get(url, headers=headers, stream=True, timeout=(min(stall, 15), stall)) as response:
            if response.status_code == 416:  # the part is complete or belongs to another file; the digest decides
                _mark(part).unlink(missing_ok=True)
                if _length_behind_slash(response) == have:
                    return
                part.unlink()
                raise _Passing("the file changed on the server")
            if response.status_code in PASSING:
                raise _Passing(plainly(requests.HTTPError(response=response), url))
            response.raise_for_status()
            goes_on = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
                f"bytes {have}-"
            )
            _receive(response, part, have if goes_on else 0, name, url, max_bytes, deadline)
    except requests.exceptions.SSLError as error:
        raise FetchError(plainly(error, url)) from None
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise _Passing(plainly(error, url)) from None
    except requests.RequestException as error:
        raise FetchError(plainly(error, url)) from None


def _receive(
    response: requests.Response, part: Path, have: int, name: str, url: str, max_bytes: int, deadline: float
) -> None:
    """Append the body of `response` to the first `have` bytes of `part`."""
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else 0
    if total > max_bytes:
        raise FetchError(f"{name} ({shown(url)}): {total:,} bytes, more than the {max_bytes:,} allowed")
    strong = response.headers.get("ETag", "")
    if strong.startswith('"'):
        _mark(part).write_text(strong)
    else:
        _mark(part).unlink(missing_ok=True)
    with part.open("r+b" if have else "wb") as file, Progress(name, total // 1000, "kB", have // 1000) as progress:
        file.truncate(have)
        file.seek(have)
        for chunk in response.raw.stream(CHUNK, decode_content=False):
            have += file.write(chunk)
            if have > max_bytes:
                part.unlink()
                raise FetchError(f"{name} ({shown(url)}): more than the {max_bytes:,} bytes allowed")
            if time.monotonic() > deadline:
                raise FetchError(
                    f"{name} ({shown(url)}): not finished in the time allowed; "
                    f"{have:,} bytes are kept and the same command continues"
                )
            progress.total = max(progress.total, have // 1000)
            progress.advance(have // 1000 - progress.done)


def _length_behind_slash(response: requests.Response) -> int | None:
    """The full length in `Content-Range: bytes */LENGTH`."""
    length = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(length) if length.isdigit() else None


def _mark(part: Path) -> Path:
    """The path of a part's ETag, which ensures that the rest is of the same file."""
    return part.with_suffix(".etag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
