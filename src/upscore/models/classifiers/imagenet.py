"""ImageNet classifiers by name, with the preprocessing, class names and image size of their weights.

N images, H W pixels.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import timm
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, get_model, get_model_weights, list_models

from upscore.errors import UserError
from upscore.models.backbones.efficientnet_lite import lite0
from upscore.models.preprocessing import LITE0, Preprocessing
from upscore.text import first_line


class Classifier(NamedTuple):
    """An ImageNet classifier and the data needed to use it."""

    net: nn.Module
    """Preprocessed images (N, 3, H, W) -> logits (N, 1000), in evaluation mode."""
    preprocessing: Preprocessing
    classes: list[str]
    """Short names of ImageNet's 1000 classes."""
    input_size: int
    """Side of the training images in pixels."""


def imagenet_classifier(name: str, weights: str | Path | None = None) -> Classifier:
    """Build a pretrained ImageNet classifier.

    Args:
        name: "efficientnet_lite0", the name of a torchvision classifier such as "vgg16", or "timm/NAME".
        weights: a file with the state dict, `.safetensors` or `.pth`; None: the installed weights of
            efficientnet_lite0, or the default weights of torchvision or timm, which are downloaded.

    Raises:
        UserError: the name is unknown, the network does not have 1000 classes, the weights can't be downloaded, or the
            file does not match the network.
    """
    if name == "efficientnet_lite0":
        net = lite0(pretrained=weights is None)
        preprocessing, input_size = LITE0, 224
    elif name.startswith("timm/"):
        net, preprocessing, input_size = _from_timm(name, fetch=weights is None)
    else:
        net, preprocessing, input_size = _from_torchvision(name, fetch=weights is None)
    if weights is not None:
        _load(net, name, Path(weights))
    return Classifier(net.eval(), preprocessing, imagenet_classes(), input_size)


def imagenet_classes() -> list[str]:
    """Return the short names of the 1000 classes in the order of the logits."""
    return ResNet50_Weights.DEFAULT.meta["categories"]


def _from_torchvision(name: str, fetch: bool) -> tuple[nn.Module, Preprocessing, int]:
    names = list_models(module=torchvision.models)
    if name not in names:
        close = ", ".join(get_close_matches(name, names)) or "resnet50, vgg16, alexnet"
        raise UserError(f"there is no classifier {name!r}: did you mean {close}, or timm/{name} for a network of timm?")
    recipe = get_model_weights(name)["DEFAULT"]
    try:
        net = get_model(name, weights=recipe if fetch else None)
    except (OSError, RuntimeError) as error:
        raise _unavailable(name, error) from error
    transforms = recipe.transforms()
    return net, _preprocessing(transforms.mean, transforms.std), transforms.crop_size[0]


def _from_timm(name: str, fetch: bool) -> tuple[nn.Module, Preprocessing, int]:
    short = name.removeprefix("timm/")
    if not timm.is_model(short):
        close = ", ".join(f"timm/{match}" for match in get_close_matches(short, timm.list_models()))
        raise UserError(f"timm has no network {short!r}" + (f": did you mean {close}?" if close else ""))
    try:
        net = timm.create_model(short, pretrained=fetch)
    except (OSError, RuntimeError, ImportError) as error:
        if not fetch:
            raise
        raise _unavailable(name, error) from error
    config = resolve_data_config(model=net)
    if net.num_classes != 1000:
        raise UserError(f"{name} has {net.num_classes} classes, not the 1000 of ImageNet: use other weights of timm")
    return net, _preprocessing(config["mean"], config["std"]), config["input_size"][-1]


def _preprocessing(mean: list[float], std: list[float]) -> Preprocessing:
    """Convert mean and standard deviation from the scale 0..1 to 0..255."""
    (r, g, b), (sr, sg, sb) = mean, std
    return Preprocessing(mean=(255 * r, 255 * g, 255 * b), std=(255 * sr, 255 * sg, 255 * sb))


def _unavailable(name: str, error: Exception) -> UserError:
    return UserError(
        f"the weights of {name} can't be downloaded ({first_line(error)}): give a local file with --weights, or use "
        "efficientnet_lite0, whose weights are installed"
    )


def _load(net: nn.Module, name: str, path: Path) -> None:
    weights = _read_weights(path)
    expected = net.state_dict()
    wrong = [key for key in weights if key not in expected or weights[key].shape != expected[key].shape]
    wrong += [key for key in expected if key not in weights and not key.endswith("num_batches_tracked")]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UserError(
            f"{path} does not match {name}: {', '.join(wrong[:4])}{more} differ; give --backbone the name of the "
            "network whose weights the file holds"
        )
    net.load_state_dict({**expected, **weights})


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"the weights file {path} does not exist")
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as weights: {first_line(error)}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} does not hold a state dict (name -> tensor): save net.state_dict()")
    return weights
