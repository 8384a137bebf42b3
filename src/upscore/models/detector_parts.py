"""Mask R-CNN in three parts that compute the same for any image, between which regions are chosen and pooled.

N images, R regions, K classes, A anchors per cell, C channels, P bins a side of what was pooled; a map is h x w.

Maps and regions go in and out with the channels of a cell or bin side by side, as `gather_roi_align` reads and writes
them, so that nothing is copied from one layout to another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from upscore.models.map_rows import from_table
from upscore.models.mask_rcnn import Branches, MaskRCNN, Outputs
from upscore.models.roi_heads import BoxHead
from upscore.models.rpn import RPNOutputs

Run = Callable[..., tuple[Tensor, ...]]
"""A part, compiled or not."""


class DensePart(nn.Module):
    """Preprocessed images (N, 3, H, W) -> the maps' cells (N * h * w of all maps, C), and each level's objectness
    (N, h, w, A), then each one's deltas (N, h, w, 4A).

    Args:
        net: the whole network.
        dtype: of the cells.
    """

    def __init__(self, net: MaskRCNN, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `as_outputs`."""
        maps, (objectness, deltas) = self.net(images)
        pooled = maps[: len(self.net.box_pooler.strides)]
        cells = torch.cat([features.to(self.dtype).permute(0, 2, 3, 1).flatten(0, 2) for features in pooled])
        return cells, *(level.permute(0, 2, 3, 1) for level in (*objectness, *deltas))


def as_outputs(tensors: Sequence[Tensor]) -> Outputs:
    """What `DensePart` returns, as `MaskRCNN.forward` does, but for maps that no region is pooled from; views."""
    cells, *levels = tensors
    planes = [level.permute(0, 3, 1, 2) for level in levels]
    objectness, deltas = planes[: len(planes) // 2], planes[len(planes) // 2 :]
    images, sizes, rows = len(objectness[0]), [], 0
    for height, width in (level.shape[-2:] for level in objectness):
        if rows < len(cells):
            sizes.append((height, width))
            rows += images * height * width
    return Outputs(from_table(cells, images, sizes), RPNOutputs(objectness, deltas))


class BoxPart(nn.Module):
    """What was pooled for boxes, (R, P * P * C) of any float type -> class logits (R, K + 1) and deltas (R, 4K)."""

    def __init__(self, net: MaskRCNN) -> None:
        super().__init__()
        self.inputs = net.box_pooler.size**2 * map_channels(net)
        self.to_regions = ToRegions(net.box_pooler.size)
        self.shared_head, self.head, self.predictor = net.shared_head or nn.Identity(), net.box_head, net.box_predictor
        if net.shared_head is None and isinstance(net.box_head, BoxHead) and not len(net.box_head.convs):
            self.to_regions, self.head = nn.Identity(), _for_rows(net.box_head, net.box_pooler.size)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas."""
        logits, deltas = self.predictor(self.head(self.shared_head(self.to_regions(rows.float()))))
        return logits, deltas.flatten(1)


class MaskPart(nn.Module):
    """What was pooled for masks, (R, P * P * C) -> the mask head's logits (R, K, m, m); 1 or K + 1 in some forms."""

    def __init__(self, net: MaskRCNN) -> None:
        super().__init__()
        self.inputs = net.mask_pooler.size**2 * map_channels(net)
        self.to_regions = ToRegions(net.mask_pooler.size)
        self.shared_head, self.head = net.shared_head or nn.Identity(), net.mask_head

    def forward(self, rows: Tensor) -> tuple[Tensor]:
        """One tensor."""
        return (self.head(self.shared_head(self.to_regions(rows.float()))),)


class ToRegions(nn.Module):
    """(R, P * P * C) -> (R, C, P, P)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, rows: Tensor) -> Tensor:
        """A view, channels last in memory."""
        return rows.unflatten(1, (self.size, self.size, -1)).permute(0, 3, 1, 2)


def map_channels(net: MaskRCNN) -> int:
    """C, of the maps that regions are pooled from."""
    return net.rpn.head.objectness.in_channels


def to_rows(regions: Tensor) -> Tensor:
    """(R, C, P, P) -> (R, P * P * C), without a copy where the channels are last in memory."""
    return regions.permute(0, 2, 3, 1).flatten(1)


def branches(box: Run, mask: Run) -> Branches:
    """What `MaskRCNN.decode` takes, of `BoxPart` and `MaskPart`."""

    def box_branch(regions: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = box(to_rows(regions))
        return logits, deltas.unflatten(1, (-1, 4))

    return Branches(box_branch, lambda regions: mask(to_rows(regions))[0])


def _for_rows(head: BoxHead, size: int) -> BoxHead:
    """The same fully connected layers for values in the order P, P, C: the first one's weights move instead."""
    own = copy.deepcopy(head)
    weight = own.get_parameter("fcs.0.weight")
    with torch.no_grad():
        weight.copy_(weight.unflatten(1, (-1, size, size)).permute(0, 2, 3, 1).flatten(1))
    return own
