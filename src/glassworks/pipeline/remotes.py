"""Push to and pull from DVC's default remote. DVC transfers the files; its errors become one line with a remedy.

Files appear atomically in the remote, the cache and the results. The file list of a folder appears after its files.
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
    "(docs/how-to/remotes.md), and commit .dvc/config"
)


def push(root: Path) -> str:
    """Upload the files of dvc.lock that the remote lacks; returns a message for the user."""
    with _remote(root) as (repo, _, where), _errors_of(where, fills=where):
        count = repo.push()
    status = ["git", "status", "--porcelain", "dvc.lock"]
    changed = subprocess.run(status, cwd=root, capture_output=True, text=True, check=False).stdout
    note = "; dvc.lock has changes: commit it, or no clone will ask for these files" if changed else ""
    return f"{where}: {count} files sent{note}"


def pull(root: Path) -> str:
    """Download the files of dvc.lock that the cache lacks and check them out; returns a message for the user."""
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
    """DVC's repository, whether its default remote is non-empty, and the name of the remote. Raises `FetchError` if the remote is unreachable."""
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
        return bool(remote.fs.exists(remote.path))
    except Exception as error:  # raised by the library of the remote
        raise FetchError(
            f"{where}: cannot be reached ({_line(error)}); see that it is up and lets you in (docs/how-to/remotes.md), then run the same command again"
        ) from None


@contextmanager
def _errors_of(where: str, fills: str) -> Iterator[None]:
    """Turn the exceptions and logged errors of DVC into a single one-line error. `fills` names the disk that may be full."""
    from dvc.exceptions import CheckoutError, DvcException, FileTransferError

    logged = _silence()
    try:
        yield
    except (DvcException, OSError, sqlite3.Error) as error:
        shown = [record.exc_info[1] for record in logged if record.exc_info]
        causes: list[BaseException] = [error, *(cause for cause in shown if cause is not None)]
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
                f"{where}: {_line(error)}; see that the address is right and that you may write there (docs/how-to/remotes.md), then run the same command again"
            )
        else:
            problem = ArtifactError(
                f"{where}: {_line(error)}; see `dvc push`, `dvc fetch` and `dvc checkout`, which do the work"
            )
        raise problem from None


def _line(error: BaseException) -> str:
    """The message of an exception on one line."""
    first, *more = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()
    if not more:
        return first
    return f"{first} {more[0].strip()}" + (f" (and {len(more) - 1} more)" if more[1:] else "")


def _silence() -> list[logging.LogRecord]:
    """A list that collects the warnings and errors of DVC from now on, instead of stderr."""
    collector = _Collector(logging.WARNING)
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).handlers = [collector]
    return collector.records


class _Collector(logging.Handler):
    """Keeps log records instead of printing them."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
