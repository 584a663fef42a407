"""What DVC versions, to and from its default remote. DVC does the work; here its many messages become one line that says what to do.

A file gets its name in the remote, in the cache and in the results when it is whole, and a folder's list of files when all of them are there.
"""

import logging
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import OUT_OF_SPACE
from glassworks.errors import ArtifactError, ConfigError, FetchError, ResourceError, UserError

NO_REMOTE = (
    "no remote is configured: `dvc remote add --default NAME URL`, where URL is a folder, ssh://HOST/FOLDER or s3://BUCKET/FOLDER "
    "(docs/remotes.md), and commit .dvc/config"
)


def push(root: Path) -> str:
    """Send what dvc.lock names and the remote lacks."""
    with _remote(root) as (repo, _, where), _errors_of(where, fills=where):
        count = repo.push()
    status = ["git", "status", "--porcelain", "dvc.lock"]
    changed = subprocess.run(status, cwd=root, capture_output=True, text=True, check=False).stdout
    note = "; dvc.lock has changes: commit it, or no clone will ask for these files" if changed else ""
    return f"{where}: {count} files sent{note}"


def pull(root: Path) -> str:
    """Bring what dvc.lock names and the cache lacks, and lay it out in data/, models/ and results/."""
    with _remote(root) as (repo, there, where), _errors_of(where, fills=str(root)):
        if not there:
            raise ArtifactError(
                f"{where}: nothing is there; see that the address is right and the disk mounted, or `make push` first"
            )
        count = repo.fetch()
        repo.checkout()
    return f"{where}: {count} files brought"


@contextmanager
def _remote(root: Path) -> Iterator[tuple[Any, bool, str]]:
    """DVC's repository, whether its default remote holds anything, and that remote in words. A remote that does not answer is a `FetchError`."""
    from dvc.config import ConfigError as WrongConfig
    from dvc.config import NoRemoteError
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            remote = repo.cloud.get_remote()
            where = f"remote {remote.name} ({repo.config['remote'][remote.name]['url']})"
            yield repo, _holds_anything(remote, where), where
    except NoRemoteError:
        raise ConfigError(NO_REMOTE) from None
    except WrongConfig as error:
        raise ConfigError(f".dvc/config: {_line(error)}") from None


def _holds_anything(remote: Any, where: str) -> bool:
    try:
        return remote.fs.exists(remote.path)
    except Exception as error:  # of whichever library speaks to it
        raise FetchError(
            f"{where}: cannot be reached ({_line(error)}); see that it is up and lets you in (docs/remotes.md), then run the same command again"
        ) from None


@contextmanager
def _errors_of(where: str, fills: str) -> Iterator[None]:
    """Turn what DVC raises, or only logs on the way, into one error of one line. `fills` is where a full disk would be."""
    from dvc.exceptions import CheckoutError, DvcException, FileTransferError

    logged = _silence()
    try:
        yield
    except (DvcException, OSError, sqlite3.Error) as error:
        causes = [error, *(record.exc_info[1] for record in logged if record.exc_info)]
        full = [cause for cause in causes if isinstance(cause, OSError) and cause.errno in OUT_OF_SPACE]
        if full:
            problem: UserError = ResourceError(
                f"{fills}: {_line(full[0])}; free some space there and run the same command again"
            )
        elif isinstance(error, CheckoutError):
            lacking = ", ".join(error.target_infos)
            problem = ArtifactError(
                f"{where}: lacks files of {lacking}; `make push` where they were made, or `make all` makes them here"
            )
        elif isinstance(error, FileTransferError):
            problem = FetchError(
                f"{where}: {_line(error)} ({_line(causes[-1])}); the rest arrived, the same command continues"
            )
        elif isinstance(error, OSError):
            problem = FetchError(
                f"{where}: {_line(error)}; see that the address is right and that you may write there (docs/remotes.md), then run the same command again"
            )
        else:
            problem = ArtifactError(
                f"{where}: {_line(error)}; see `dvc push`, `dvc fetch` and `dvc checkout`, which do the work"
            )
        raise problem from None


def _line(error: BaseException) -> str:
    """What an exception says, on one line."""
    first, *more = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()
    if not more:
        return first
    return f"{first} {more[0].strip()}" + (f" (and {len(more) - 1} more)" if more[1:] else "")


def _silence() -> list[logging.LogRecord]:
    """From here on, what DVC would print as warnings and errors goes into this list."""
    records: list[logging.LogRecord] = []
    collector = logging.Handler(logging.WARNING)
    collector.emit = records.append
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).handlers = [collector]
    return records
