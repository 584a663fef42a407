"""Lookup of a pinned wheel (name, version, sha256) through the user's index settings for pip and uv.

Supports pip's index-url, extra-index-url, find-links, no-index, cert, trusted-host and proxy (files and environment)
and uv's environment variables. Local folders, file:// indexes and indexes on a private network work, because the
settings name them. Only the file with the pinned digest is selected.

`pip download` is not used: it restarts an interrupted download from the beginning, and its errors span several lines.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pypi_simple
import requests
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pypi_simple import DistributionPackage, ProjectPage, PyPISimple
from urllib3.util.retry import Retry

from glassworks.artifacts.digests import sha256_file
from glassworks.data.fetching.http_session import leads_inside, open_session, plainly, shown
from glassworks.errors import FetchError

DEFAULT_INDEX = "https://pypi.org/simple"
"""pip's index without settings."""
TIMEOUT = (15, 60)
RETRIES = Retry(total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)


@dataclass(frozen=True)
class IndexSettings:
    """The user's package indexes, in the order of lookup."""

    indexes: tuple[str, ...] = (DEFAULT_INDEX,)
    find_links: tuple[str, ...] = ()
    certificate: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    proxy: str | None = None

    def session(self, allow_private: bool, retries: Retry | None = None) -> requests.Session:
        """A session with these settings."""
        return open_session(allow_private, self.certificate, self.trusted_hosts, retries, self.proxy)


@dataclass(frozen=True)
class Found:
    """The location of a pinned wheel."""

    url: str
    """http, https or file."""
    filename: str
    allow_private: bool
    """Whether the index is on a private network, and may therefore link to private addresses."""


def read_settings() -> IndexSettings:
    """The settings of pip (`pip config list`: global, install, download, environment) and of uv (environment)."""
    pip = _pip_settings()
    uv = {name.removeprefix("UV_"): value for name, value in os.environ.items() if name.startswith("UV_")}
    uv_default = uv.get("DEFAULT_INDEX") or uv.get("INDEX_URL") or ""
    first = f"{uv_default} {pip.get('index-url', '' if uv_default else DEFAULT_INDEX)}"
    more = f"{pip.get('extra-index-url', '')} {uv.get('INDEX', '')} {uv.get('EXTRA_INDEX_URL', '')}"
    indexes = [] if _yes(pip.get("no-index")) or _yes(uv.get("NO_INDEX")) else f"{first} {more}".split()
    links = pip.get("find-links", "").split() + uv.get("FIND_LINKS", "").replace(",", " ").split()
    return IndexSettings(
        indexes=tuple(dict.fromkeys(_without_name(url) for url in indexes)),
        find_links=tuple(dict.fromkeys(links)),
        certificate=pip.get("cert"),
        trusted_hosts=tuple(pip.get("trusted-host", "").split()),
        proxy=pip.get("proxy"),
    )


def _pip_settings() -> dict[str, str]:
    """pip's options by name. The command's section overrides [global]; the environment overrides both."""
    run = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise FetchError(f"pip cannot read its configuration: {' '.join(run.stderr.split())}")
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, "download": {}, ":env:": {}}
    for line in run.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in sections:
            sections[section][option] = ast.literal_eval(value)
    return {option: value for section in sections.values() for option, value in section.items()}


def _yes(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "t", "yes", "y", "on")


def _without_name(url: str) -> str:
    """The URL of an entry of UV_INDEX, which may be NAME=URL."""
    name, equals, rest = url.partition("=")
    return rest if equals and "/" not in name else url


def find_wheel(name: str, version: str, sha256: str, settings: IndexSettings) -> Found:
    """The location of the wheel with that digest.

    Raises `FetchError` with the reason: no index reachable, no such package, no such version, or other files only.
    """
    others: list[DistributionPackage] = []
    versions: set[str] = set()
    unreachable: list[str] = []
    places = (*settings.indexes, *settings.find_links)
    for number, place in enumerate(places):
        try:
            packages = _packages(place, name, number < len(settings.indexes), settings)
        except _Unreachable as failure:
            unreachable.append(str(failure))
            continue
        wheels = [file for file in packages if file.package_type == "wheel" and _same_version(file.version, version)]
        versions |= {package.version for package in packages if package.version}
        for package in _possible(wheels, sha256):
            return Found(_with_credentials(package.url, place), package.filename, leads_inside(place))
        others += wheels
    where = ", ".join(map(shown, places)) or "no index (pip's no-index is set, with no find-links)"
    also = f" (and {'; '.join(unreachable)})" if unreachable else ""
    if others:
        offered = ", ".join(
            sorted(f"{wheel.filename} sha256 {wheel.digests.get('sha256', 'not stated')}" for wheel in others)
        )
        raise FetchError(f"{name} {version}: no wheel has the pinned sha256 {sha256}; the index offers {offered}{also}")
    if versions:
        known = ", ".join(sorted(versions, key=_sortable)[-8:])
        raise FetchError(f"{name}: there is no wheel of version {version} at {where}{also}; versions there: {known}")
    if unreachable:
        raise FetchError(f"{name} {version} cannot be looked up: {'; '.join(unreachable)}")
    raise FetchError(f"{name}: no such package at {where}")


def _possible(wheels: list[DistributionPackage], sha256: str) -> list[DistributionPackage]:
    """The wheel with the digest, or the only wheel without a stated digest (the download is checked anyway)."""
    exact = [wheel for wheel in wheels if _digest(wheel) == sha256]
    unstated = [wheel for wheel in wheels if _digest(wheel) is None]
    return exact or (unstated if len(unstated) == 1 else [])


def _digest(wheel: DistributionPackage) -> str | None:
    """The sha256 stated by the index, or computed for a file in a local folder."""
    if "sha256" not in wheel.digests and wheel.url.startswith("file:") and (path := local_file(wheel.url)).is_file():
        wheel.digests["sha256"] = sha256_file(path)
    return wheel.digests.get("sha256")


class _Unreachable(Exception):
    """An unreachable index; the message is the reason."""


def _packages(place: str, name: str, is_index: bool, settings: IndexSettings) -> list[DistributionPackage]:
    """Files of the package `name` at an index, a find-links page or a folder; empty without such a package."""
    if not place.startswith(("http://", "https://")):
        return list(_local_packages(Path(local_file(place)), name, is_index))
    try:
        with settings.session(True, RETRIES) as session:
            if is_index:
                return PyPISimple(place, session=session).get_project_page(name, timeout=TIMEOUT).packages
            answer = session.get(place, timeout=TIMEOUT)
            answer.raise_for_status()
            return [package for package in ProjectPage.from_response(answer, name).packages if _is_of(package, name)]
    except pypi_simple.NoSuchProjectError:
        return []
    except requests.RequestException as error:
        raise _Unreachable(plainly(error, place)) from None
    except (pypi_simple.UnsupportedContentTypeError, pypi_simple.UnsupportedRepoVersionError, ValueError):
        raise _Unreachable(f"{shown(place)}: answers, but not as a package index") from None


def _local_packages(place: Path, name: str, is_index: bool) -> Iterator[DistributionPackage]:
    if not place.exists():
        raise _Unreachable(f"{place}: no such folder")
    page = place / canonicalize_name(name) / "index.html" if is_index else place
    if page.is_file() and page.suffix == ".html":
        packages = ProjectPage.from_html(name, page.read_bytes(), page.absolute().as_uri()).packages
    elif is_index:
        packages = []
    else:
        links = "".join(f'<a href="{path.absolute().as_uri()}">{path.name}</a>' for path in sorted(place.glob("*.whl")))
        packages = ProjectPage.from_html(name, links).packages
    yield from (package for package in packages if _is_of(package, name))


def _is_of(package: DistributionPackage, name: str) -> bool:
    return package.project is not None and canonicalize_name(package.project) == canonicalize_name(name)


def local_file(url: str) -> Path:
    """The path of a file:// URL or a plain path."""
    return Path(unquote(urlsplit(url).path)) if url.startswith("file:") else Path(url).expanduser()


def _with_credentials(url: str, place: str) -> str:
    """The URL with the user and password of its index, if both are on the same host, as in pip."""
    url, own = urljoin(place, url), urlsplit(place)
    parts = urlsplit(url)
    if (
        own.username
        and not parts.username
        and (parts.scheme, parts.hostname, parts.port) == (own.scheme, own.hostname, own.port)
    ):
        parts = parts._replace(netloc=own.netloc)
    return parts.geturl()


def _same_version(found: str | None, wanted: str) -> bool:
    try:
        return Version(found or "") == Version(wanted)
    except InvalidVersion:
        return found == wanted


def _sortable(version: str) -> tuple[bool, Version | str]:
    try:
        return True, Version(version)
    except InvalidVersion:
        return False, version
