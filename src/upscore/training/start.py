"""The weights that training starts from."""

from __future__ import annotations

from pathlib import Path

from upscore.checkpoints.folder import find_model, load_model
from upscore.checkpoints.read import read_state_dict
from upscore.errors import UserError
from upscore.models.backbones import load_classifier
from upscore.training.tasks import Network

IMAGENET, NONE = "imagenet", "none"

TRUNK_OPTIONS = ("backbone", "geometry", "stride_in")
"""Those of `build` by which the same trunk's weights mean something else."""


def start_from(net: Network, weights: str | Path) -> None:
    """Give a network other weights than it was built with.

    A file has the backbone's classifier as torchvision or timm publish it. From a model folder comes every layer of the
    same name and shape, so that 16s starts from 32s, or a net for new classes from one for others; the trunk must be
    the same. Scores of pixels are taken over for the same classes alone, whereas what finds one kind of object is a
    good start for another.

    Raises:
        UserError: there are no such weights, or they are of another backbone.
    """
    if weights in (IMAGENET, NONE):
        return
    path = Path(weights)
    if path.is_file():
        load_classifier(net.trunk, read_state_dict(path))
        return
    source, card = load_model(find_model(path))
    for option in TRUNK_OPTIONS:
        theirs, ours = source.architecture.get(option), net.architecture.get(option)
        if theirs != ours and None not in (theirs, ours):
            raise UserError(f"{path}: its {option} is {theirs!r}, but {ours!r} is asked for")
    own = net.state_dict()
    every = net.task == "instances" or card.classes == net.classes
    matching = {
        name: value
        for name, value in source.state_dict().items()
        if name in own and own[name].shape == value.shape and (name.startswith("trunk.") or every)
    }
    if not any(name.startswith("trunk.") for name in matching):
        raise UserError(f"{path}: none of its backbone's layers fits {net.architecture['name']}")
    net.load_state_dict(matching, strict=False)
    net.trunk.preprocessing = source.trunk.preprocessing
