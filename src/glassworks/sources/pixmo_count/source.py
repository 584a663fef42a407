"""The source `pixmo_count`: the published parquet files of allenai/pixmo-count and the images that they name.

A row becomes branches of the message tree of its image. The rows of validation and test have a count and no points.
Labels are those of `pixmo_points`.
"""

from collections.abc import Callable, Iterator

from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.remote_images import RemoteImage, TarImages, remote_images
from glassworks.pipeline.execution import Context
from glassworks.sources.pixmo_points.trees import trees

COLUMNS = ("points", "count", "label")


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every image with a usable row, in the order in which the tables name them."""
    published = context.params["splits"] is None
    for item in remote_images(context, COLUMNS, published):
        if isinstance(item, RemoteImage):
            yield from trees(item, context)
        else:
            yield item


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The unchanged bytes of a record's image."""
    tars = TarImages(context)
    return lambda record: tars.media(record.media["place"])
