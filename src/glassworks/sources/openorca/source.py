"""The source `openorca`: the published files of Open-Orca/OpenOrca, read in batches of rows.

The system prompt is a system message. It is no instruction: the question is what the user says.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from glassworks.data.fetching.raw_files import raw_folder
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.splits import split_of
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.sources.messages.forms import Unusable, convert
from glassworks.sources.messages.rows import Row, matching_files, read_objects
from glassworks.sources.messages.source import prompt_digest

COLUMNS = ("id", "system_prompt", "question", "response")


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every row with a question and a response, file by file in the order of their names."""
    params = context.params
    for name in matching_files(context, (".parquet", ".jsonl")):
        path = raw_folder(context) / name
        key = re.sub(r"[^\w-]", "_", PurePosixPath(name).stem)[-64:]
        checked = False
        for number, item in enumerate(read_objects(path, name, COLUMNS), start=1):
            if not isinstance(item, Row):
                yield item
                continue
            row = item.value
            if not checked and not {"question", "response"} & row.keys():
                raise DataError(
                    f"{path}: keys found: {', '.join(row)[:200]}; expected {', '.join(COLUMNS)}, the columns of "
                    f"Open-Orca/OpenOrca; the source `messages` reads other forms"
                )
            checked = True
            system = row.get("system_prompt") or None
            turns = [
                {"role": "system", "content": system},
                {"role": "user", "content": row.get("question")},
                {"role": "assistant", "content": row.get("response")},
            ]
            try:
                messages = convert("OpenAI", {"messages": turns if system else turns[1:]}).messages
            except Unusable as error:
                yield Dropped(item.where, str(error))
                continue
            group = prompt_digest(messages)
            identity = str(row.get("id") or "")
            yield Record(
                f"{key}-{number:08}",
                split_of(group, params["splits"], params["seed"]),
                group,
                labels={"id": identity, "collection": identity.partition(".")[0]},
                messages=messages,
            )


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function that returns no media: a record holds its messages."""
    return lambda record: {}
