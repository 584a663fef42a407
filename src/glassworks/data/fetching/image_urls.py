"""The images that the tables of a local data set name by their URLs: downloaded once each, into tars of the raw artefact.

Finished images are kept in the work directory under the digest of their URL, so an interrupted stage continues. The artefact
depends on the tables and on the answers of the servers alone, and on neither the order of arrival nor the interruptions:

    inventory.parquet   the tables, as for every local data set
    images-00000.tar    the images of 1,000 URLs, in the order in which the tables first name them
    images.parquet      for each image its URL, tar, offset, size and sha256
    failures.jsonl      for each URL without an image the reason and the number of attempts
"""

import hashlib
import json
import os
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from glassworks.artifacts.digests import flush_to_disk, write_bytes, write_text
from glassworks.config.datasets import Downloads, RemoteImages
from glassworks.data.drops import kind
from glassworks.data.fetching.raw_files import INVENTORY, raw_files_folder
from glassworks.data.fetching.schedule import Schedule, Task
from glassworks.data.fetching.web_images import Failed, Passing, Wanted, WebImages, host_of, origin_of
from glassworks.data.file_kinds import image_extension
from glassworks.data.shards import link_or_copy, open_tar, write_sample
from glassworks.errors import DataError, FetchError
from glassworks.pipeline.execution import Context
from glassworks.progress import Progress
from glassworks.watchdog import beat

IMAGES, FAILURES = "images.parquet", "failures.jsonl"
SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("tar", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
    ]
)
PART = 1000
"""URLs of a tar."""
BATCH = 1 << 16
"""Rows of a table read at a time."""
BEAT_SECONDS = 30.0
DIGESTS = "two rows publish different digests of it"


class Failure(NamedTuple):
    """A URL without an image."""

    number: int
    reason: str
    attempts: int


def fetch(context: Context, settings: type[RemoteImages]) -> dict[str, Any]:
    """Download the images into `context.output`; returns the counts.

    Raises `FetchError` if more images fail than `downloads.max_failures` allows. All that was downloaded is kept.
    """
    params, downloads = context.params, context.stage.downloads
    assert downloads is not None
    digests = settings.digest_column if params.get("check_digests") else None
    wanted = _wanted(context, settings.url_column, digests)
    web = WebImages(downloads, params["max_bytes"], params["private_addresses"], params["robots"])
    store = _Store(context.work, wanted)
    failures = _Download(context, web, store, downloads).run()
    return _pack(context, store, failures)


def table_names(inventory: Sequence[str], params: dict[str, Any], dataset: str) -> list[str]:
    """The tables among the files of a data set, sorted. Raises `DataError` if there is none."""
    names = [
        name
        for name in sorted(inventory)
        if name.lower().endswith(".parquet") and (params["files"] == "**" or fnmatchcase(name, params["files"]))
    ]
    if not names:
        found = ", ".join(sorted(inventory)[:5])
        raise DataError(
            f"params.yaml: datasets.{dataset}.files: {params['files']} matches no .parquet file (found: {found})"
        )
    return names


def read_columns(path: Path, columns: Sequence[str], rows: int = BATCH) -> Iterator[pa.RecordBatch]:
    """These columns of a table in batches of `rows`. Raises `DataError` for a file that is no parquet or lacks one of them."""
    try:
        file = pq.ParquetFile(path)
        found = file.schema_arrow.names
        if missing := [name for name in columns if name not in found]:
            raise DataError(
                f"{path}: missing column {missing[0]}; columns found: {', '.join(found)[:200]}; "
                f"expected {', '.join(columns)}"
            )
        yield from file.iter_batches(rows, columns=list(columns))
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path}: not a parquet file that can be read ({str(error).splitlines()[0]})") from None


def _wanted(context: Context, url_column: str, digest_column: str | None) -> list[Wanted]:
    """The URLs of the tables in the order in which they are first named, each once."""
    params, dataset = context.params, context.stage.subject
    folder = raw_files_folder(context.output, context.local_path)
    inventory = pq.read_table(context.output / INVENTORY, columns=["path"])["path"].to_pylist()
    columns = [url_column, *([digest_column] if digest_column else [])]
    found: dict[str, str | None] = {}
    torn = set[str]()
    for name in table_names(inventory, params, dataset):
        for batch in read_columns(folder / name, columns):
            urls = batch.column(0).to_pylist()
            digests = batch.column(1).to_pylist() if digest_column else [None] * len(urls)
            for url, digest in zip(urls, digests, strict=True):
                if not isinstance(url, str) or not url.strip():
                    continue
                if (first := found.setdefault(url, digest)) != digest and digest:
                    if first:
                        torn.add(url)
                    else:
                        found[url] = digest
    wanted = [Wanted(url, digest, DIGESTS if url in torn else "") for url, digest in found.items()][: params["images"]]
    if not wanted:
        raise DataError(f"{folder}: the tables of {dataset} name no image in the column {url_column}")
    return wanted


class _Store:
    """The images of a fetch in its work directory."""

    def __init__(self, work: Path, wanted: list[Wanted]) -> None:
        self.wanted, self.folder, self.parts = wanted, work / "images", work / "parts"
        self.log = work / "failed.jsonl"
        self.names = [hashlib.sha256(one.url.encode(errors="surrogatepass")).hexdigest() for one in wanted]
        for digit in range(256):
            (self.folder / f"{digit:02x}").mkdir(parents=True, exist_ok=True)
        self.parts.mkdir(exist_ok=True)

    def path(self, number: int) -> Path:
        name = self.names[number]
        return self.folder / name[:2] / name

    def part_of(self, part: int) -> range:
        """The numbers of the URLs of a part."""
        return range(part * PART, min(len(self.wanted), (part + 1) * PART))

    @property
    def count(self) -> int:
        """The number of parts."""
        return -(-len(self.wanted) // PART)

    @property
    def complete(self) -> bool:
        """Whether an earlier run began to write tars, which it does when every URL has an image or a failure."""
        return any(self.packed(part) for part in range(self.count))

    def packed(self, part: int) -> bool:
        """Whether an earlier run wrote the tar of a part. The rows are written before it."""
        return self.tar(part).exists()

    def tar(self, part: int) -> Path:
        return self.parts / f"images-{part:05d}.tar"

    def rows(self, part: int) -> Path:
        return self.parts / f"images-{part:05d}.json"

    def there(self) -> set[int]:
        """The numbers of the URLs whose images are there, before the first tar is written."""
        kept = {name for folder in os.scandir(self.folder) for name in os.listdir(folder)}  # noqa: PTH208
        return {number for number, name in enumerate(self.names) if name in kept}

    def failed(self) -> list[Failure]:
        """The failures that an interrupted run noted, by number."""
        found = []
        with suppress(FileNotFoundError):
            for line in self.log.read_text().splitlines():
                with suppress(ValueError):  # the last line of a run that was killed
                    number, reason, attempts = json.loads(line)
                    found.append(Failure(number, reason, attempts))
        return sorted(found)


@dataclass
class _Download:
    """Downloads all images that are not there, on several threads."""

    context: Context
    web: WebImages
    store: _Store
    downloads: Downloads
    failures: dict[int, Failure] = field(default_factory=dict)
    _results: "queue.Queue[tuple[int, Failure | None] | BaseException]" = field(default_factory=queue.Queue)

    def run(self) -> list[Failure]:
        """The failures in order. Raises `FetchError` for too many of them."""
        store = self.store
        if store.complete:
            return store.failed()
        there = store.there()
        self.failures = {failure.number: failure for failure in store.failed() if failure.number not in there}
        self._check()
        settled = there | self.failures.keys()
        left = len(store.wanted) - len(settled)
        schedule = Schedule(self._tasks(settled), self.downloads.per_host)
        threads = [
            threading.Thread(target=self._work, args=(schedule,), name=f"image-{index}", daemon=True)
            for index in range(min(self.downloads.connections, left))
        ]
        label = f"images {self.context.stage.subject}"
        with Progress(label, len(store.wanted), "images", len(settled)) as progress, store.log.open("a") as log:
            for thread in threads:
                thread.start()
            try:
                for _ in range(left):
                    number, failure = self._result()
                    if failure:
                        self.failures[number] = failure
                        log.write(json.dumps(failure) + "\n")
                        log.flush()
                        self._check()
                    progress.advance(1, f"{len(self.failures):,} failed")
            finally:
                schedule.stop()
        for thread in threads:
            thread.join()
        return [self.failures[number] for number in sorted(self.failures)]

    def _tasks(self, settled: set[int]) -> Iterator[tuple[str, int]]:
        """A task for each image, and one for the robots.txt of each origin. URLs that cannot be asked for fail at once."""
        origins = set[str]()
        for number, one in enumerate(self.store.wanted):
            if number in settled:
                continue
            try:
                origin, host = origin_of(one.url), host_of(one.url)
                if one.fault:
                    raise Failed(one.fault)
            except Failed as reason:
                self._results.put((number, Failure(number, str(reason), 0)))
                continue
            if self.web.robots and origin not in origins:
                origins.add(origin)
                yield host, -1 - number
            yield host, number

    def _result(self) -> tuple[int, Failure | None]:
        """The next result of a thread. Every attempt has a time limit, so waiting for it is no stall."""
        while True:
            try:
                result = self._results.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                beat()
                continue
            if isinstance(result, BaseException):
                raise result
            return result

    def _check(self) -> None:
        """Raise `FetchError` if too many images failed. They are listed in the work directory, and the next run tries them again."""
        total, share = len(self.store.wanted), self.downloads.max_failures
        if len(self.failures) <= share * total:
            return
        failures = [self.failures[number] for number in sorted(self.failures)]
        file, name = self.context.work / FAILURES, self.context.stage.subject
        write_text(file, listed(failures, self.store.wanted))
        self.store.log.unlink(missing_ok=True)
        counted = Counter(kind(failure.reason) for failure in failures).most_common(3)
        shown = ", ".join(f"{reason} {count:,}" for reason, count in counted)
        raise FetchError(
            f"{name}: {len(failures):,} of {total:,} images failed ({shown}), more than "
            f"datasets.{name}.downloads.max_failures allows ({share:g}): {file}; images that arrived are kept, and the "
            f"same command tries the others again"
        )

    def _work(self, schedule: Schedule) -> None:
        """Do tasks until none is left."""
        try:
            while taken := schedule.take():
                self._attempt(schedule, *taken)
        except BaseException as error:
            self._results.put(error)

    def _attempt(self, schedule: Schedule, host: str, task: Task) -> None:
        opens = task.number < 0
        number = -1 - task.number if opens else task.number
        wanted = self.store.wanted[number]
        try:
            if opens:
                self.web.read_robots(wanted.url)
            else:
                write_bytes(self.store.path(number), self.web.get(wanted))
        except Failed as failed:
            reason, attempts = str(failed), task.attempts + 1
            wait = self._wait(failed, task)
            if wait is not None:
                assert isinstance(failed, Passing)
                schedule.again(host, task, wait, whole_host=failed.wait is not None)
                return
            if opens:
                self._close(schedule, host, task, wanted.url, reason, attempts)
                return
            result: Failure | None = Failure(number, reason, attempts)
        else:
            result = None
        schedule.finish(host, task)
        if not opens:
            self._results.put((number, result))

    def _wait(self, failed: Failed, task: Task) -> float | None:
        """Seconds before the next attempt; None if there is none."""
        if not isinstance(failed, Passing) or task.attempts >= self.downloads.retries:
            return None
        wait = self.downloads.backoff_seconds * 2**task.attempts
        if failed.wait is not None:
            return failed.wait if failed.wait <= self.downloads.longest_wait_seconds else None
        return min(wait, self.downloads.longest_wait_seconds)

    def _close(self, schedule: Schedule, host: str, task: Task, url: str, reason: str, attempts: int) -> None:
        """Fail all images of an origin whose robots.txt cannot be read."""
        origin = origin_of(url)
        numbers = schedule.waiting(host)
        lost = {number for number in numbers if origin_of(self.store.wanted[number].url) == origin}
        schedule.drop(host, lost)
        schedule.finish(host, task)
        for number in sorted(lost):
            self._results.put((number, Failure(number, f"robots.txt cannot be read: {reason}", attempts)))


def listed(failures: Sequence[Failure], wanted: Sequence[Wanted]) -> str:
    """The text of failures.jsonl."""
    rows = ({"url": wanted[one.number].url, "reason": one.reason, "attempts": one.attempts} for one in failures)
    return "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)


def _pack(context: Context, store: _Store, failures: Sequence[Failure]) -> dict[str, Any]:
    """Write the tars, one after another, and remove the files that they hold. Then write the tables of the artefact."""
    failed = {failure.number for failure in failures}
    rows: list[dict[str, Any]] = []
    with Progress(f"pack {context.stage.subject}", store.count, "tars") as progress:
        for part in range(store.count):
            if not store.packed(part):
                _write_part(store, part, failed)
            for number in store.part_of(part):  # also those that an interrupted run left
                store.path(number).unlink(missing_ok=True)
            tar = store.tar(part)
            for number, offset, size, sha256 in json.loads(store.rows(part).read_text()):
                place = {"tar": tar.name, "offset": offset, "size": size, "sha256": sha256}
                rows.append({"url": store.wanted[number].url, **place})
            link_or_copy(tar, context.output / tar.name)
            progress.advance(1, tar.name)
    pq.write_table(
        pa.Table.from_pylist(rows, schema=SCHEMA), context.output / IMAGES, compression="zstd", write_statistics=False
    )
    write_text(context.output / FAILURES, listed(failures, store.wanted))
    counts: dict[str, Any] = {"images": len(rows), "image_bytes": sum(row["size"] for row in rows)}
    if failures:
        counts["failures"] = dict(sorted(Counter(kind(failure.reason) for failure in failures).items()))
    return counts


def _write_part(store: _Store, part: int, failed: set[int]) -> None:
    """Write the rows of a part, then its tar."""
    rows, temporary = [], store.parts / f".images-{part:05d}.tmp"
    with temporary.open("wb") as file, open_tar(file) as tar:
        for number in store.part_of(part):
            if number in failed:
                continue
            body = store.path(number).read_bytes()
            extension = image_extension(body) or "img"
            offset, size = write_sample(tar, f"{number:08d}", {extension: body}).members[extension]
            rows.append([number, offset, size, hashlib.sha256(body).hexdigest()])
    flush_to_disk(temporary)
    write_text(store.rows(part), json.dumps(rows))
    temporary.replace(store.tar(part))
