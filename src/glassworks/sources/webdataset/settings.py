"""Settings of the source `webdataset`."""

from typing import Literal

from glassworks.config.datasets import Credit, LocalImages, RecordJobs, Split

CREDIT = Credit(
    title="Existing WebDataset tars",
    licence="Yours to state: glassworks does not know it",
    credit="",
    derivation="The tars are taken as they are.",
)


class WebDatasetTars(LocalImages):
    """Existing WebDataset tars (img2dataset's included), used unchanged. One pass builds the sidecars."""

    source: Literal["webdataset"]
    tars: dict[Split, str]
    """A glob inside `path` for each split, such as {train: "0000*.tar", test: "00010.tar"}."""
    record_jobs: RecordJobs = 1
    """Parallel jobs that read the tars and decode their images. Does not affect the bytes of the records."""
