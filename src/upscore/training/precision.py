"""Chooses the number format of training, by a measurement if it is "auto"."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence

import torch

import upscore
from upscore.annotations import ObjectAnnotations
from upscore.models.precision import Precision, has_bfloat16_instructions
from upscore.timing import Choice, fastest
from upscore.training.tasks import INSTANCES, Network, task_for

MEASURED_SIDE = 256
"""Height and width in pixels of the image whose training step is measured."""

ROUNDS = 2


def choose_precision(
    net: Network, precision: Precision = "auto", *, device: torch.device | str = "cpu", head_only: bool = False
) -> Choice:
    """Choose the number format of the convolutions in training.

    "auto" is bfloat16 on GPUs that support it. On CPUs with bfloat16 instructions, a step on a small image is measured
    in both formats, once for each machine and network. "auto" is float32 on all other devices.

    Args:
        net: the network; it is not modified.
        precision: "float32", "bfloat16" or "auto".
        device: device of the training.
        head_only: whether the backbone is not trained.

    Returns:
        "float32" or "bfloat16", and the reason.
    """
    if precision != "auto":
        return Choice(precision, "set by the user")
    if torch.device(device).type == "cuda":
        supported = torch.cuda.is_bf16_supported()
        return Choice(
            "bfloat16" if supported else "float32",
            f"this GPU {'supports' if supported else 'does not support'} bfloat16",
        )
    if not has_bfloat16_instructions():
        return Choice("float32", "this processor has no bfloat16 instructions")
    key = ["training", json.dumps(net.architecture) if net.architecture else repr(net), head_only]
    copies: list[Network] = []

    def prepare(name: str) -> Callable[[], object]:
        copies.extend([] if copies else [_copy(net, head_only)])
        return lambda: _step(copies[0], getattr(torch, name))

    return fastest(["float32", "bfloat16"], prepare, key=[*key, upscore.__version__, torch.__version__], rounds=ROUNDS)


def _copy(net: Network, head_only: bool) -> Network:
    copied = copy.deepcopy(net).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    if head_only:
        copied.backbone.requires_grad_(False)
    return copied


def _step(net: Network, dtype: torch.dtype) -> None:
    """Run a forward and backward pass on a noise image."""
    task, side = task_for(net), MEASURED_SIDE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        depth = net.backbone.depth_preprocessing
        images = torch.randn(1, 3 + (0 if depth is None else len(depth.mean)), side, side)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            outputs = task.forward(net, images)
            losses = task.loss_sums(net, outputs, _targets(net, side), [0])
        torch.stack([loss.mean for loss in losses.values()]).sum().backward()
    net.zero_grad()


def _targets(net: Network, side: int) -> torch.Tensor | Sequence[ObjectAnnotations]:
    if task_for(net) is not INSTANCES:
        maps = torch.zeros(1, side, side, dtype=torch.uint8)
        return torch.stack([maps, maps], 1) if net.architecture.get("geometric_classes") else maps
    masks = torch.zeros(4, side, side, dtype=torch.bool)
    for number, mask in enumerate(masks):
        start = number * side // 4
        mask[start : start + side // 5, start : start + side // 5] = True
    return [ObjectAnnotations.from_masks(masks)]
