"""State dicts with the keys of pytorch-fcn; large tensors are expanded from one number and take no memory."""

from __future__ import annotations

import torch
from torch import Tensor

CONVOLUTIONS = {
    "conv1_1": (64, 3, 3, 3),
    "conv1_2": (64, 64, 3, 3),
    "conv2_1": (128, 64, 3, 3),
    "conv2_2": (128, 128, 3, 3),
    "conv3_1": (256, 128, 3, 3),
    "conv3_2": (256, 256, 3, 3),
    "conv3_3": (256, 256, 3, 3),
    "conv4_1": (512, 256, 3, 3),
    "conv4_2": (512, 512, 3, 3),
    "conv4_3": (512, 512, 3, 3),
    "conv5_1": (512, 512, 3, 3),
    "conv5_2": (512, 512, 3, 3),
    "conv5_3": (512, 512, 3, 3),
    "fc6": (4096, 512, 7, 7),
    "fc7": (4096, 4096, 1, 1),
}
SCORES = {
    "fcn32s": {"score_fr": 4096},
    "fcn16s": {"score_fr": 4096, "score_pool4": 512},
    "fcn8s": {"score_fr": 4096, "score_pool3": 256, "score_pool4": 512},
}
UPSAMPLING = {
    "fcn32s": {"upscore": 64},
    "fcn16s": {"upscore2": 4, "upscore16": 32},
    "fcn8s": {"upscore2": 4, "upscore8": 16, "upscore_pool4": 4},
}
"""Kernel sizes of the upsampling layers, by network."""


def pytorch_fcn_state(name: str, num_classes: int) -> dict[str, Tensor]:
    """Return a state dict of fcn32s, fcn16s or fcn8s; each backbone tensor is filled with a different number."""
    shapes = CONVOLUTIONS | {layer: (num_classes, width, 1, 1) for layer, width in SCORES[name].items()}
    state = {}
    for number, (layer, shape) in enumerate(shapes.items(), start=1):
        state[f"{layer}.weight"] = torch.tensor(number / 1000).expand(shape)
        state[f"{layer}.bias"] = torch.tensor(-number / 1000).expand(shape[0])
    for layer, kernel_size in UPSAMPLING[name].items():
        state[f"{layer}.weight"] = torch.zeros(num_classes, num_classes, kernel_size, kernel_size)
        for index in range(num_classes):
            state[f"{layer}.weight"][index, index] = bilinear_kernel(kernel_size)
    return state


def bilinear_kernel(kernel_size: int) -> Tensor:
    """Return the bilinear (k, k) kernel for even k: the product of two triangle functions."""
    centre = kernel_size / 2 - 0.5
    triangle = torch.tensor([1 - abs(i - centre) / (kernel_size / 2) for i in range(kernel_size)])
    return triangle[:, None] * triangle[None, :]
