"""Download of a repository's files at one commit of the Hugging Face hub: resumable, and checked against the hub's digests.

huggingface_hub is not used: it compares sizes, not digests, and its downloads bypass the checks of `http_session`.

HF_ENDPOINT sets a mirror, HF_TOKEN the token for private repositories. The token is sent to the hub only, never to a redirect target.
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
    """Fill the output with the files of the entry. Files finished by an interrupted run are not downloaded again."""
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
    """Git's sha1 of a file, which the hub states for small files."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _authorise(session: requests.Session) -> None:
    if token := os.environ.get("HF_TOKEN"):
        session.headers["Authorization"] = f"Bearer {token}"


def _files(session: requests.Session, endpoint: str, repository: str, revision: str) -> dict[str, dict[str, Any]]:
    """The hub's metadata of each file, by name."""
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
