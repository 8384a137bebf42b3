"""Loads the initial weights of a training run: ImageNet weights, a classifier's file, or an earlier model."""

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
"""Options of `build` that must be equal for two networks to share backbone weights."""

NO_DEPTH = ("none", 0)


def load_initial_weights(net: Network, weights: str | Path, depth_weights: str | Path | None = None) -> None:
    """Replace the weights that a network was built with.

    A model folder supplies every layer with the same name and shape, so that FCN-16s can start from FCN-32s, and a
    network for new classes from one for other classes; both need the same backbone. For semantic segmentation, the
    score layers are copied only if the classes are equal; for instance segmentation, they are always copied.

    A network with depth input can start from an RGB network (see `with_depth`). With late fusion it can start from two
    model folders, the second for a network with depth input only; its initial scores are the mean of both.

    Args:
        net: the network, modified in place.
        weights: "imagenet" or "none" (nothing to load), a state dict of the backbone's classifier as torchvision or
            timm publish it, or a model folder.
        depth_weights: model folder of a network with depth input only, for late fusion.

    Raises:
        UserError: the weights do not exist, or belong to another backbone.
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
        raise UserError(f"{path} has --depth {theirs[0]}, but --depth {ours[0]} is given: use the same option")
    if theirs == ours:
        net.backbone.depth_preprocessing = source.backbone.depth_preprocessing
    else:
        source.backbone = _add_depth(net, source.backbone)
    state = source.state_dict()
    if theirs != ours and ours[0] != "early":  # the score layers of RGB features don't fit fused features
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
    net.backbone.load_state_dict(_add_depth(net, colour).state_dict())
    net.backbone.preprocessing = colour.preprocessing


def _start_from_two(net: Network, path: Path, depth_path: Path) -> None:
    if not isinstance(net.backbone, LateFusion):
        raise UserError(f"--depth-weights {depth_path} applies to late fusion only: add --depth late")
    (colour, config), (depth, depth_config) = _read(net, path), _read(net, depth_path)
    if _depth(colour) != NO_DEPTH:
        raise UserError(f"--weights {path} has depth input: for --depth late it must be a network with RGB input only")
    if not isinstance(depth.backbone, DepthOnly) or _depth(depth)[1] != _depth(net)[1]:
        raise UserError(
            f"--depth-weights {depth_path}: must be a network trained with --depth only on {_depth(net)[1]} channels"
        )
    fused = LateFusion(colour.backbone, depth.backbone.depth)
    state = {f"backbone.{name}": value for name, value in fused.state_dict().items()}
    layers, depth_layers = (cast(FCN, network).score for network in (colour, depth))
    for stride in layers.keys() & depth_layers.keys():
        scores = late_scores(cast(nn.Conv2d, layers[stride]), cast(nn.Conv2d, depth_layers[stride]))
        state |= {f"score.{stride}.{name}": value for name, value in scores.items()}
    _load(net, state, [config, depth_config], path)
    net.backbone.preprocessing = fused.preprocessing
    net.backbone.depth_preprocessing = depth.backbone.depth_preprocessing


def _read(net: Network, path: Path) -> tuple[Network, ModelConfig]:
    """Load a model after a check that its backbone has the same options."""
    source, config = load_model(find_model(path))
    for option in BACKBONE_OPTIONS:
        theirs, ours = source.architecture.get(option), net.architecture.get(option)
        if theirs != ours and None not in (theirs, ours):
            raise UserError(f"{path} has {option}={theirs!r}, but {option}={ours!r} is given: use the same value")
    return source, config


def _depth(net: Network) -> tuple[str, int]:
    """Return how a network uses depth, and the number of depth channels."""
    return str(net.architecture.get("depth", "none")), int(net.architecture.get("depth_channels", 0))


def _add_depth(net: Network, colour: Backbone) -> Backbone:
    """Convert an RGB backbone to the backbone type of `net`."""
    fusion, channels = _depth(net)
    return colour if fusion == "none" else with_depth(colour, cast(Fusion, fusion), channels)


def _load(net: Network, state: Mapping[str, Tensor], configs: Sequence[ModelConfig], path: Path) -> None:
    """Load the layers that fit; score layers only if their classes are equal."""
    same_classes = net.task == "instances" or all(config.classes == net.classes for config in configs)
    same_geometric = isinstance(net, TwoHeads) and all(
        config.geometric_classes == net.geometric_classes for config in configs
    )
    own = net.state_dict()
    matching = {
        name: value
        for name, value in state.items()
        if name in own
        and own[name].shape == value.shape
        and (name.startswith("backbone.") or (same_geometric if name.startswith("geometric.") else same_classes))
    }
    if not any(name.startswith("backbone.") for name in matching):
        raise UserError(f"{path}: no backbone layer fits {net.architecture['name']}: choose weights of this backbone")
    net.load_state_dict(matching, strict=False)
