"""The stage `weights`: published weights in the hub's layout (config.json, model.safetensors, tokenizer files).

No code of a wheel or repository is executed. The only pickles read are PyTorch's, with `weights_only=True`.
"""

import importlib
from typing import Any

from glassworks.data.weights.layout import check, convert_checkpoint, copy_local
from glassworks.pipeline.execution import Context


def run(context: Context) -> dict[str, Any]:
    """The counts of the converted weights. Raises `FetchError` for a failed download and `DataError` for unexpected files."""
    source = context.params["source"]
    if source == "local":
        copy_local(context)
    else:
        # by name: the stage table adds the module to the key
        importlib.import_module(f"glassworks.data.weights.{source}").fetch(context)
    convert_checkpoint(context.output)
    return check(context.output)
