"""Import checkpoints of pytorch-fcn (wkentaro's torchfcn): FCN-32s, 16s, 8s and 8s-at-once on VGG16.

C classes, k kernel size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from upscore.checkpoints.importers.state_dict import check_tensors, unwrap
from upscore.errors import UserError
from upscore.models.fcn.build import build_fcn
from upscore.models.fcn.fcn import FCN, Upsampling
from upscore.models.fcn.upsampling import Upsample

SCORES = {32: "score_fr", 16: "score_pool4", 8: "score_pool3"}
"""Names of the score layers, by stride."""

UPSAMPLING = {
    "fcn32s": {1: "upscore"},
    "fcn16s": {16: "upscore2", 1: "upscore16"},
    "fcn8s": {16: "upscore2", 8: "upscore_pool4", 1: "upscore8"},
}
"""Names of the upsampling layers, by network and output stride; the layer with stride 1 identifies the network."""


def import_pytorch_fcn(checkpoint: Mapping[str, Any], *, at_once: bool = False) -> FCN:
    """Convert a state dict, or a checkpoint of pytorch-fcn's trainer, to a network in evaluation mode.

    The geometry is Caffe's. Upsampling layers with exactly bilinear weights become fixed; others are kept as learned
    dense kernels. Tensors in float32 are not copied.

    Args:
        checkpoint: tensors by name, or a trainer's checkpoint, which contains the name of the network.
        at_once: whether the weights are those of FCN-8s-at-once, which has the same names as FCN-8s.

    Raises:
        UserError: a tensor is missing, unexpected or has a wrong shape.
    """
    state = unwrap(checkpoint)
    name = _recognise(state)
    if at_once or checkpoint.get("arch") == "FCN8sAtOnce":
        if name != "fcn8s":
            raise UserError(f"the checkpoint is of {name}, but only FCN-8s is trained at once; leave out at_once")
        name = "fcn8s-atonce"

    num_classes = len(state["score_fr.bias"])
    net = _empty(name, num_classes, "learned")
    check_tensors(state, {theirs: net.get_parameter(ours).shape for ours, theirs in _names(net).items()})
    upsampling = _upsampling_of(state, net)
    if upsampling != "learned":
        net = _empty(name, num_classes, upsampling)
    net.load_state_dict({ours: state[theirs].float() for ours, theirs in _names(net).items()}, assign=True)
    return net.eval()


def _recognise(state: Mapping[str, Any]) -> str:
    """Return the name of the network, by its upsampling layers."""
    name = next((name for name, layers in UPSAMPLING.items() if f"{layers[1]}.weight" in state), None)
    if name is None:
        finals = ", ".join(f"{layers[1]}.weight" for layers in UPSAMPLING.values())
        raise UserError(f"the checkpoint is not one of pytorch-fcn: it has none of {finals}")
    bias = state.get("score_fr.bias")
    if not isinstance(bias, Tensor) or bias.ndim != 1:
        raise UserError("the checkpoint is not one of pytorch-fcn: score_fr.bias, with a number per class, is missing")
    return name


def _empty(name: str, num_classes: int, upsampling: Upsampling) -> FCN:
    """Build a network on the meta device."""
    with torch.device("meta"):
        return build_fcn(
            name, backbone="vgg16", num_classes=num_classes, geometry="caffe", upsampling=upsampling, grouped=False
        )


def _names(net: FCN) -> dict[str, str]:
    """Return pytorch-fcn's name of each tensor of the network."""
    layers = {f"score.{stride}": SCORES[stride] for stride in net.strides}
    layers |= {f"upscore.{stride}.deconvolution": layer for stride, layer in _upsampling_layers(net).items()}
    names = {}
    for ours in net.state_dict():
        layer, _, kind = ours.rpartition(".")
        names[ours] = f"{layers.get(layer, layer.removeprefix('backbone.'))}.{kind}"
    return names


def _upsampling_layers(net: FCN) -> dict[int, str]:
    """Return the names of the upsampling layers, by output stride."""
    return UPSAMPLING[f"fcn{net.strides[-1]}s"]


def _upsampling_of(state: Mapping[str, Tensor], net: FCN) -> Upsampling:
    """Return which upsampling layers were trained: those whose kernels are not bilinear."""
    layers = _upsampling_layers(net)
    trained = {stride for stride, layer in layers.items() if not _is_bilinear(state[f"{layer}.weight"])}
    if 1 in trained:
        return "learned"
    return "intermediate" if trained else "fixed"


def _is_bilinear(weight: Tensor) -> bool:
    """Return whether a dense (C, C, k, k) kernel is the initial, bilinear kernel of `Upsample`."""
    channels, kernel_size = weight.shape[0], weight.shape[-1]
    initial = Upsample(channels, kernel_size // 2, kernel_size, learned=True, grouped=False).deconvolution
    assert initial is not None
    return torch.equal(weight, initial.weight.to(weight.dtype))
