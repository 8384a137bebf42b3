"""Build a backbone by its name: VGG16, AlexNet, torchvision's ResNets, or a timm network with strides 8, 16 and 32.

N images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import timm
import torch
from timm.data.config import resolve_data_config
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from upscore.errors import UserError
from upscore.models.backbones.base import RESNETS, Backbone, Norm, SequentialBackbone, StrideIn
from upscore.models.backbones.efficientnet_lite import lite0
from upscore.models.backbones.resnet import ResNetBackbone, resnet
from upscore.models.backbones.vgg import Geometry, alexnet, load_torchvision_vgg16, vgg16
from upscore.models.coordinate_maps import centred
from upscore.models.preprocessing import LITE0, Preprocessing
from upscore.text import first_line

T = TypeVar("T")


def build_backbone(
    name: str,
    *,
    geometry: Geometry = "same",
    pretrained: bool = False,
    norm: Norm = "batch",
    norm_eps: float = 1e-5,
    stride_in: StrideIn = "3x3",
) -> Backbone:
    """Build a backbone.

    Args:
        name: "vgg16", "alexnet", "efficientnet_lite0", the name of a torchvision ResNet, or the name of a timm network.
            "timm/NAME" selects timm's network where torchvision has a ResNet of the same name.
        geometry: how VGG16 pads the image, see `upscore.models.backbones.vgg.Geometry`; AlexNet is always "caffe",
            other backbones are always "same".
        pretrained: load ImageNet weights. Those of EfficientNet-Lite0 are installed, others are downloaded.
        norm, norm_eps, stride_in: batch normalisation and strides of ResNets, see
            `upscore.models.backbones.resnet.resnet`; other backbones accept only the defaults.

    Raises:
        UserError: the name is unknown, the backbone does not support an option, it has no feature maps of strides 8, 16
            and 32, or the weights are not available.
    """
    if name not in RESNETS and (norm, norm_eps, stride_in) != ("batch", 1e-5, "3x3"):
        raise UserError(
            f"norm {norm}, norm_eps {norm_eps} and stride_in {stride_in} are options of ResNets, not of {name}: "
            "remove them"
        )
    if norm == "batch" and norm_eps <= 0:
        raise UserError(f"norm_eps is {norm_eps}; it must be above 0 unless norm is frozen")
    if name == "vgg16":
        backbone = vgg16(geometry)
        if pretrained:
            load_torchvision_vgg16(backbone, fetch(name, VGG16_Weights.IMAGENET1K_V1.get_state_dict))
        return backbone
    if name == "alexnet":
        if pretrained:
            raise UserError(
                "no ImageNet weights are published for alexnet (CaffeNet): train it from scratch with --weights none"
            )
        return alexnet()
    if geometry != "same":
        raise UserError(f"geometry {geometry} is an option of vgg16 and alexnet; {name} needs geometry same")
    if name == "efficientnet_lite0":
        return TimmBackbone(name, lite0(pretrained=pretrained), LITE0)
    if name in RESNETS:
        return ResNetBackbone(
            fetch(
                name,
                lambda: resnet(name, pretrained=pretrained, norm=norm, norm_eps=norm_eps, stride_in=stride_in),
            )
        )
    name = name.removeprefix("timm/")
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "efficientnet_lite0, resnet50, vgg16"
        raise UserError(f"there is no backbone {name!r}; similar names are {close}")
    body = fetch(name, lambda: timm.create_model(name, pretrained=pretrained))
    config = resolve_data_config(model=body)
    mean, std = (tuple(255 * value for value in config[key]) for key in ("mean", "std"))
    return TimmBackbone(name, body, Preprocessing(mean=mean, std=std))


def fetch(name: str, load: Callable[[], T]) -> T:
    """Call a function that may download ImageNet weights, and raise `UserError` if it fails."""
    try:
        return load()
    except (OSError, RuntimeError, ImportError) as error:  # raised by the download clients of torch and timm
        raise UserError(
            f"the ImageNet weights of {name} can't be downloaded ({first_line(error)}): use efficientnet_lite0, whose "
            "weights are installed, train without weights (--weights none) or give a local file (--weights FILE)"
        ) from error


def _count_channels(backbone: nn.Module) -> dict[int, int]:
    """Return stride -> number of channels, measured on a blank image in evaluation mode."""
    training = backbone.training
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, 64, 64))
    backbone.train(training)
    return {stride: features.shape[1] for stride, features in maps.items()}


class TimmBackbone(Backbone):
    """A timm network without its classifier; the map of stride 32 is the one that the classifier would pool.

    Args:
        name: name of the network, for error messages.
        body: the network; its classifier is removed.
        preprocessing: the preprocessing of its weights.

    Raises:
        UserError: the network does not accept images of any size, or has no maps of strides 8, 16 and 32.
    """

    multiple, border = 32, 1

    def __init__(self, name: str, body: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.body: Any = body
        self.preprocessing = preprocessing
        self.body.reset_classifier(0)
        try:
            with torch.no_grad():
                final, maps = self.body.eval().forward_intermediates(torch.zeros(1, 3, side := 256, side))
        except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{name} gives no feature maps for images of any size ({error}): use a convolutional network"
            ) from error
        stride_of = [side // features.shape[-1] for features in maps]
        if side // final.shape[-1] != 32 or not {8, 16} <= set(stride_of):
            raise UserError(f"{name} has feature maps of strides {sorted(set(stride_of))}; an FCN needs 8, 16 and 32")
        self.last = {stride: index for index, stride in enumerate(stride_of)}
        """Stride -> index of the last intermediate map of this stride."""
        self.strides = [stride for stride in (4, 8, 16) if stride in stride_of]
        self.whole = True
        self._freeze_unused()
        self.channels = _count_channels(self)
        self.coordinates = {stride: centred(stride) for stride in self.channels}

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Preprocessed images (N, 3, H, W) -> {stride: map}."""
        indices = [self.last[stride] for stride in self.strides]
        if not self.whole:
            maps = self.body.forward_intermediates(images, indices=indices, stop_early=True, intermediates_only=True)
            return dict(zip(self.strides, maps, strict=True))
        final, maps = self.body.forward_intermediates(images, indices=indices)
        return {**dict(zip(self.strides, maps, strict=True)), 32: final}

    def end_at(self, stride: int) -> None:
        """Return only the output of the last stage of this stride from now on."""
        if stride not in self.last:
            raise KeyError(stride)
        self.strides, self.whole = [stride], False
        self._freeze_unused()
        self.channels, self.coordinates = _count_channels(self), {stride: centred(stride)}

    def _freeze_unused(self) -> None:
        """Freeze the parameters that no feature map depends on, such as those of the classifier's normalisation."""
        if torch.is_inference_mode_enabled():  # no gradients can be computed, and nothing is trained
            return
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.eval()  # running statistics do not change
        with torch.enable_grad():
            sums = [features.sum() for features in self(torch.zeros(1, 3, 64, 64)).values()]
            gradients = torch.autograd.grad(sums, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        self.train()


CLASSIFIERS = ("fc.", "classifier.", "head.")
"""Prefixes of the classifier's keys in torchvision and timm, which a backbone does not have."""


def load_classifier(backbone: Backbone, state: Mapping[str, Tensor]) -> None:
    """Load the state dict of a torchvision or timm classifier into the backbone built from the same network.

    Raises:
        UserError: a key is missing, unexpected or has another shape.
    """
    if isinstance(backbone, SequentialBackbone):
        if 8 not in backbone.channels:
            raise UserError("alexnet can't load classifier weights: use --weights none or --weights MODEL_FOLDER")
        load_torchvision_vgg16(backbone, state)
        return
    body = backbone.get_submodule("body")
    own = body.state_dict()
    trained = {name: value for name, value in state.items() if name in own or not name.startswith(CLASSIFIERS)}
    for name in sorted(own.keys() ^ trained.keys()):
        if not name.endswith("num_batches_tracked"):  # absent from older checkpoints, and not used
            raise UserError(
                f"the weights do not match the backbone: {name} is {'missing' if name in own else 'unexpected'}; give "
                "the weights of the same network"
            )
    for name, value in trained.items():
        if own[name].shape != value.shape:
            raise UserError(
                f"{name} has shape {tuple(value.shape)} in the weights; the backbone has {tuple(own[name].shape)}"
            )
    body.load_state_dict(trained, strict=False)
