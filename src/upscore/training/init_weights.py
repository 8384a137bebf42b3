"""The weights that training starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from upscore.checkpoints.config import ModelConfig
from upscore.checkpoints.importers.state_dict import read_state_dict
from upscore.checkpoints.model_folder import find_model, load_model
from upscore.errors import UserError
from upscore.models.backbones.base import Backbone
from upscore.models.backbones.factory import load_classifier
from upscore.models.build import build
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.rgbd import DepthOnly, Fusion, LateFusion, late_scores, with_depth
from upscore.models.fcn.two_heads import TwoHeads
from upscore.training.tasks import Network

IMAGENET, NONE = "imagenet", "none"

BACKBONE_OPTIONS = ("backbone", "geometry", "stride_in")
"""Those of `build` by which the same backbone's weights mean something else."""

NO_DEPTH = ("none", 0)


def start_from(net: Network, weights: str | Path, depth_weights: str | Path | None = None) -> None:
    """Give a network other weights than it was built with.

    A file has the backbone's classifier as torchvision or timm publish it. From a model folder comes every layer of the
    same name and shape, so that 16s starts from 32s, or a net for new classes from one for others; the backbone must be
    the same. Scores of pixels are taken over for the same classes alone, whereas what finds one kind of object is a
    good start for another.

    A network with depth starts from one for photos too, as `with_depth` has it. One with late fusion can start from two
    folders, the second (`depth_weights`) of a network that sees depth alone: it then begins with the mean of both.

    Raises:
        UserError: there are no such weights, or they are of another backbone.
    """
    if depth_weights is not None:
        _start_from_two(net, Path(weights), Path(depth_weights))
        return
    if weights in (IMAGENET, NONE):
        return
    path = Path(weights)
    if path.is_file():
        _start_from_classifier(net, read_state_dict(path))
        return
    source, config = _read(net, path)
    theirs, ours = _depth(source), _depth(net)
    if theirs not in (NO_DEPTH, ours):
        raise UserError(f"{path}: its depth is {theirs[0]!r}, but {ours[0]!r} is asked for")
    if theirs == ours:
        net.backbone.depth_preprocessing = source.backbone.depth_preprocessing
    else:
        source.backbone = _seeing_depth(net, source.backbone)
    state = source.state_dict()
    if theirs != ours and ours[0] != "early":  # scores of a photo's features, which these are not
        state = {name: value for name, value in state.items() if name.startswith("backbone.")}
    _load(net, state, [config], path)
    net.backbone.preprocessing = source.backbone.preprocessing


def _start_from_classifier(net: Network, state: dict[str, Tensor]) -> None:
    if _depth(net) == NO_DEPTH:
        load_classifier(net.backbone, state)
        return
    options = net.architecture | {"depth": "none", "depth_channels": 0}
    colour = build(str(options.pop("name")), **options).backbone
    load_classifier(colour, state)
    net.backbone.load_state_dict(_seeing_depth(net, colour).state_dict())
    net.backbone.preprocessing = colour.preprocessing


def _start_from_two(net: Network, path: Path, depth_path: Path) -> None:
    if not isinstance(net.backbone, LateFusion):
        raise UserError(f"{depth_path}: weights for the depth alone are where late fusion starts (--depth late)")
    (colour, config), (depth, depth_card) = _read(net, path), _read(net, depth_path)
    if _depth(colour) != NO_DEPTH:
        raise UserError(f"{path}: sees depth too; late fusion starts from a network that sees photos alone")
    if not isinstance(depth.backbone, DepthOnly) or _depth(depth)[1] != _depth(net)[1]:
        raise UserError(f"{depth_path}: does not see depth of {_depth(net)[1]} channels alone (--depth only)")
    fused = LateFusion(colour.backbone, depth.backbone.depth)
    state = {f"backbone.{name}": value for name, value in fused.state_dict().items()}
    layers, depth_layers = (cast(FCN, network).score for network in (colour, depth))
    for stride in layers.keys() & depth_layers.keys():
        scores = late_scores(cast(nn.Conv2d, layers[stride]), cast(nn.Conv2d, depth_layers[stride]))
        state |= {f"score.{stride}.{name}": value for name, value in scores.items()}
    _load(net, state, [config, depth_card], path)
    net.backbone.preprocessing = fused.preprocessing
    net.backbone.depth_preprocessing = depth.backbone.depth_preprocessing


def _read(net: Network, path: Path) -> tuple[Network, ModelConfig]:
    """A model whose backbone is of the same kind."""
    source, config = load_model(find_model(path))
    for option in BACKBONE_OPTIONS:
        theirs, ours = source.architecture.get(option), net.architecture.get(option)
        if theirs != ours and None not in (theirs, ours):
            raise UserError(f"{path}: its {option} is {theirs!r}, but {ours!r} is asked for")
    return source, config


def _depth(net: Network) -> tuple[str, int]:
    """Where depth comes in, and its channels."""
    return str(net.architecture.get("depth", "none")), int(net.architecture.get("depth_channels", 0))


def _seeing_depth(net: Network, colour: Backbone) -> Backbone:
    """A backbone for photos in the form that this network has."""
    fusion, channels = _depth(net)
    return colour if fusion == "none" else with_depth(colour, cast(Fusion, fusion), channels)


def _load(net: Network, state: Mapping[str, Tensor], cards: Sequence[ModelConfig], path: Path) -> None:
    """What fits; of what comes after the backbone, only what means the same."""
    every = net.task == "instances" or all(config.classes == net.classes for config in cards)
    surfaces = isinstance(net, TwoHeads) and all(config.geometric_classes == net.geometric_classes for config in cards)
    own = net.state_dict()
    matching = {
        name: value
        for name, value in state.items()
        if name in own
        and own[name].shape == value.shape
        and (name.startswith("backbone.") or (surfaces if name.startswith("geometric.") else every))
    }
    if not any(name.startswith("backbone.") for name in matching):
        raise UserError(f"{path}: none of its backbone's layers fits {net.architecture['name']}")
    net.load_state_dict(matching, strict=False)
