"""Files of a repository on the Hugging Face hub, at one commit, by our own downloader: resumed, and held against the digests that the hub states.

huggingface_hub is not used for this: it compares sizes, not digests, and its downloads do not pass through the checks of `http_session`.

HF_ENDPOINT names another hub (a mirror), HF_TOKEN gives access to what is not public. The token goes to the hub alone, never to where it redirects.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from glassworks.artifacts.digests import sha256_file
from glassworks.data.fetching.archives import is_inside
from glassworks.data.fetching.download import download
from glassworks.data.fetching.http_session import leads_inside, plainly
from glassworks.data.fetching.package_index import RETRIES, TIMEOUT, read_settings
from glassworks.data.weights.layout import wanted
from glassworks.errors import FetchError
from glassworks.pipeline.execution import Context

ENDPOINT = "https://huggingface.co"


def fetch(context: Context) -> None:
    """Fill the output with the files that the entry names; those that an interrupted run finished are not downloaded again."""
    repository, revision = context.params["repository"], context.params["revision"]
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT
    settings, allow_private = read_settings(), leads_inside(endpoint)
    with settings.session(allow_private, RETRIES) as session:
        _authorise(session)
        known = _files(session, endpoint, repository, revision)
    where = f"{repository} at {revision[:12]}"
    names = context.params["files"] or wanted(sorted(known), where)
    with settings.session(allow_private) as session:
        _authorise(session)
        for name in names:
            if name not in known:
                raise FetchError(f"{where}: there is no file {name!r}; it has {', '.join(sorted(known)[:20])}")
            url = f"{endpoint}/{repository}/resolve/{revision}/{quote(name)}"
            done = _file(session, url, name, known[name], context.work / "files", where)
            (context.output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(done, context.output / name)


def git_digest(path: Path) -> str:
    """The sha1 by which git knows a file, which the hub states for small files."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _authorise(session: requests.Session) -> None:
    if token := os.environ.get("HF_TOKEN"):
        session.headers["Authorization"] = f"Bearer {token}"


def _files(session: requests.Session, endpoint: str, repository: str, revision: str) -> dict[str, dict[str, Any]]:
    """What the hub says of each file, by its name."""
    url = f"{endpoint}/api/models/{repository}/revision/{revision}?blobs=true"
    try:
        answer = session.get(url, timeout=TIMEOUT)
        if answer.status_code in (401, 403, 404):
            raise FetchError(
                f"{repository} at {revision}: the hub answers {answer.status_code}: no such repository or commit, "
                f"or one that HF_TOKEN must give access to"
            )
        answer.raise_for_status()
    except requests.RequestException as error:
        raise FetchError(plainly(error, url)) from None
    try:
        return {file["rfilename"]: file for file in answer.json()["siblings"] if is_inside(file["rfilename"])}
    except (ValueError, KeyError, TypeError):
        raise FetchError(f"{endpoint}: answers, but not as the Hugging Face hub; is HF_ENDPOINT right?") from None


def _file(session: requests.Session, url: str, name: str, said: dict[str, Any], folder: Path, where: str) -> Path:
    target = folder / name
    if sha256 := (said.get("lfs") or {}).get("sha256"):
        digest, digest_of = sha256, sha256_file
    elif said.get("blobId"):
        digest, digest_of = said["blobId"], git_digest
    else:
        raise FetchError(f"{where}: the hub states no digest of {name}; another HF_ENDPOINT may")
    if not (target.is_file() and digest_of(target) == digest):
        target.parent.mkdir(parents=True, exist_ok=True)
        download(url, target, digest, folder / ".partial", session=session, digest_of=digest_of, max_bytes=200 << 30)
    return target
