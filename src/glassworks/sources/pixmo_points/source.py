"""The source `pixmo_points`: the published parquet files of allenai/pixmo-points and the images that they name.

All rows of an image are branches of one message tree, whose context is the image. Points are percent of width and height.
Labels: `image_url`, and `questions` with kind, answer, object and number.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.remote_images import RemoteImage, TarImages, remote_images
from glassworks.pipeline.execution import Context
from glassworks.sources.pixmo_points.trees import trees

COLUMNS = ("points", "count", "label", "collection_method")


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every image with a usable row, in the order in which the tables name them."""
    collection = context.params["collection"]
    for item in remote_images(context, COLUMNS):
        if not isinstance(item, RemoteImage):
            yield item
            continue
        rows = [row for row in item.rows if collection in ("all", row.value["collection_method"])]
        yield from trees(replace(item, rows=rows), context)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The unchanged bytes of a record's image."""
    tars = TarImages(context)
    return lambda record: tars.media(record.media["place"])
