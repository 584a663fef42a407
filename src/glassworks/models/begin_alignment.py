"""Heads that begin with those of a trained alignment, tower by tower."""

from pathlib import Path

from glassworks.errors import ArtifactError
from glassworks.models import saving
from glassworks.models.alignment import KIND, Alignment, head_of
from glassworks.models.saving import Matches

HEADS = "heads."
"""The prefix of the tensors of all heads; the name of the tower follows."""


def begin_alignment(model: Alignment, directory: Path) -> Matches:
    """Copy the heads of all towers that `model` and the trained alignment in `directory` share, and the temperature.

    The heads of other towers stay as they were built. Raises `ArtifactError` for a shared tower whose features are those of another encoder or whose head is of another kind, and listing
    missing, extra and misshapen tensors of the shared heads.
    """
    saved = saving.read_config(directory, "saved heads")
    if saved.get("model") != KIND:
        raise ArtifactError(f"model.from: {directory}: not saved heads (it is a {saved.get('model', 'foreign model')})")
    shared = [name for name in model.towers if name in saved.get("towers", {})]
    for name in shared:
        for key in ("settings", "weights"):
            if model.towers[name].get(key) != saved["towers"][name].get(key):
                raise ArtifactError(
                    f"model.from: {directory}: its head {name!r} was trained on features of another encoder ({key}) than model.towers.{name}; "
                    f"give the tower that encoder, or another name"
                )
        kind, theirs = head_of(model.towers[name], model.config), saved["towers"][name].get("head", saved["head"])
        if kind != theirs:
            raise ArtifactError(
                f"model.from: {directory}: its head {name!r} is a {theirs} head, but that of model.towers.{name} is a {kind} head; "
                "give the tower that head, or another name"
            )
    file = directory / saving.WEIGHTS
    own, tensors = model.state_dict(), saving.read_tensors(file)

    def common(name: str) -> bool:
        return name.split(".")[1] in shared if name.startswith(HEADS) else name in own and name in tensors

    wanted, found = ({name: one for name, one in some.items() if common(name)} for some in (own, tensors))
    saving.check({name: tensor.shape for name, tensor in wanted.items()}, found, f"model.from: {file}")
    for name in wanted:
        saving.put(model, name, found[name], own[name].dtype)
    return Matches(
        str(file),
        len(wanted),
        [name for name in own if name not in wanted],
        sorted(tensors.keys() - wanted.keys()),
    )
