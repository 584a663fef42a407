"""Images and sounds of samples for the report's gallery."""

from collections.abc import Iterator, Sequence

from glassworks.data.reading.dataset import ShardDataset
from glassworks.encoders.protocol import EXTENSIONS


def media(dataset: ShardDataset, chosen: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """File name and content of each image and each sound of the `chosen` samples."""
    for sample in (dataset[index] for index in chosen):
        for extensions in EXTENSIONS.values():
            extension = next((name for name in extensions if name in sample.members), None)
            if extension:
                yield f"{sample.key.replace('/', '_')}.{extension}", bytes(sample.members[extension])
