"""Name -> ImageNet classifier, with what belongs to its weights: preprocessing, class names, training size.

3 input channels, 1000 classes.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import timm
import torch
import torchvision
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, get_model, get_model_weights, list_models

from upscore.errors import UserError
from upscore.models.backbones.efficientnet_lite import lite0
from upscore.models.preprocessing import LITE0, Preprocessing


class Classifier(NamedTuple):
    """A network that names the one thing in a photo."""

    net: nn.Module
    """Preprocessed images (N, 3, H, W) -> logits (N, 1000), in evaluation mode."""
    preprocessing: Preprocessing
    classes: list[str]
    """ImageNet's 1000 classes, one short name each."""
    input_size: int
    """The side of the images that it was trained on."""


def imagenet_classifier(name: str, weights: str | Path | None = None) -> Classifier:
    """A classifier by its name: "efficientnet_lite0", one of torchvision ("vgg16"), or "timm/NAME".

    Args:
        weights: a file with its state dict, `.safetensors` or `.pth`. Without one the weights of efficientnet_lite0
            are the installed ones, and the others' are asked of their hub, which needs a network.

    Raises:
        UserError: the name is unknown, the network has other than 1000 classes, its weights can't be fetched, or the
            file is not theirs.
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
    """The short names of the 1000 classes, in the order of every ImageNet classifier's logits."""
    return ResNet50_Weights.DEFAULT.meta["categories"]


def _from_torchvision(name: str, fetch: bool) -> tuple[nn.Module, Preprocessing, int]:
    names = list_models(module=torchvision.models)
    if name not in names:
        close = ", ".join(get_close_matches(name, names)) or "resnet50, vgg16, alexnet"
        raise UserError(f'no classifier is called "{name}": did you mean {close}, or timm/{name} for timm\'s?')
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
        raise UserError(f'timm has no network "{short}"' + (f": did you mean {close}?" if close else ""))
    try:
        net = timm.create_model(short, pretrained=fetch)
    except Exception as error:  # the hub's clients raise exceptions of several libraries
        if not fetch:
            raise
        raise _unavailable(name, error) from error
    config = resolve_data_config(model=net)
    if net.num_classes != 1000:
        raise UserError(f"{name} has {net.num_classes} classes, not ImageNet's 1000: take another of timm's weights")
    return net, _preprocessing(config["mean"], config["std"]), config["input_size"][-1]


def _preprocessing(mean: list[float], std: list[float]) -> Preprocessing:
    """From the scale 0..1 of torchvision and timm to 0..255."""
    (r, g, b), (sr, sg, sb) = mean, std
    return Preprocessing(mean=(255 * r, 255 * g, 255 * b), std=(255 * sr, 255 * sg, 255 * sb))


def _unavailable(name: str, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f"the weights of {name} can't be fetched ({reason}): give a local file with --weights, or take "
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
            f"{path} does not hold the weights of {name}: {', '.join(wrong[:4])}{more} differ; --backbone must name "
            "the network that the file was made with"
        )
    net.load_state_dict({**expected, **weights})


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} can't be read as weights: {reason}") from error
    except Exception as error:  # safetensors' own, which derives from Exception alone
        raise UserError(f"{path} can't be read as weights: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} holds something other than a state dict (name -> tensor): save net.state_dict()")
    return weights
