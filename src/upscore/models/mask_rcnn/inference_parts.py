"""Mask R-CNN split for inference into three parts that can be compiled: dense part, box branch and mask branch.

Proposals are selected and regions are pooled between the parts. Maps and regions are channels-last, the layout that
`gather_roi_align` reads and writes, so that no layout is converted.

N images, R regions, K classes, A anchors per cell, C channels, P x P bins of a pooled region; a map is h x w.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from upscore.models.mask_rcnn.mask_rcnn import Branches, MaskRCNN, Outputs
from upscore.models.mask_rcnn.roi_align import from_table, to_table
from upscore.models.mask_rcnn.roi_heads import BoxHead, FCNMaskHead, MaskLoss, mask_probabilities
from upscore.models.mask_rcnn.rpn import RPNOutputs

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""A part, either as a module or compiled."""


class DensePart(nn.Module):
    """Backbone, neck and RPN head: preprocessed images (N, 3, H, W) -> feature maps, objectness and deltas.

    H and W must be multiples of `backbone.multiple`. The output is a flat tuple: the maps that regions are pooled from,
    (N, h, w, C), the objectness of each level, (N, h, w, A), and the deltas of each level, (N, h, w, 4A).

    Args:
        net: the complete network.
        dtype: dtype of the maps in the output.
    """

    def __init__(self, net: MaskRCNN, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the flat tuple, which `to_outputs` converts to `Outputs`."""
        maps, (objectness, deltas) = self.net.dense(images)
        pooled = (features.to(self.dtype) for features in maps[: len(self.net.box_pooler.strides)])
        return tuple(features.permute(0, 2, 3, 1) for features in (*pooled, *objectness, *deltas))


def to_outputs(tensors: Sequence[Tensor], maps: int) -> Outputs:
    """Convert the output of `DensePart` to that of `MaskRCNN.forward`, with the maps that regions are pooled from.

    Args:
        tensors: the output of `DensePart`.
        maps: number of maps in it; they are put into one table, without a copy if they are adjacent in memory.
    """
    planes = [tensor.permute(0, 3, 1, 2) for tensor in tensors]
    pooled, levels = planes[:maps], planes[maps:]
    table = to_table(pooled)
    sizes = [(features.shape[-2], features.shape[-1]) for features in pooled]
    proposals = RPNOutputs(levels[: len(levels) // 2], levels[len(levels) // 2 :])
    return Outputs(from_table(table, len(planes[0]), sizes), proposals)


class BoxPart(nn.Module):
    """Box branch: pooled regions (R, P * P * C) of any float dtype -> class logits (R, K + 1) and deltas (R, 4K)."""

    def __init__(self, net: MaskRCNN) -> None:
        super().__init__()
        self.inputs = net.box_pooler.size**2 * map_channels(net)
        self.to_regions = ToRegions(net.box_pooler.size)
        self.shared_head, self.head, self.predictor = net.shared_head or nn.Identity(), net.box_head, net.box_predictor
        if net.shared_head is None and isinstance(net.box_head, BoxHead) and not len(net.box_head.convs):
            self.to_regions, self.head = nn.Identity(), _for_rows(net.box_head, net.box_pooler.size)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits and deltas."""
        logits, deltas = self.predictor(self.head(self.shared_head(self.to_regions(rows.float()))))
        return logits, deltas.flatten(1)


class MaskPart(nn.Module):
    """Mask branch: pooled regions (R, P * P * C) of any float dtype -> logits, which `masks` converts to masks.

    Args:
        net: the complete network.
        dtype: dtype of the logits.
    """

    def __init__(self, net: MaskRCNN, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.inputs, self.dtype = net.mask_pooler.size**2 * map_channels(net), dtype
        self.loss: MaskLoss = net.mask_loss
        self.to_regions = ToRegions(net.mask_pooler.size)
        self.shared_head, self.head = net.shared_head or nn.Identity(), net.mask_head
        if isinstance(net.mask_head, FCNMaskHead):
            self.head = CellMaskHead(net.mask_head)

    def forward(self, rows: Tensor) -> tuple[Tensor]:
        """Compute one tensor of logits: (R, P, P, 4, K) with `CellMaskHead`, else (R, K, m, m)."""
        return (self.head(self.shared_head(self.to_regions(rows.float()))).to(self.dtype),)

    def masks(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Convert logits of `forward` to the probabilities (R, m, m) float32 of the predicted classes (R,)."""
        if not isinstance(self.head, CellMaskHead):
            return mask_probabilities(logits.float(), labels, self.loss)
        logits = logits.flatten(1, 3)
        if self.loss == "sigmoid" and logits.shape[-1] > 1:  # select the class first, which is cheaper for many classes
            logits = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
            labels = torch.zeros_like(labels)
        probabilities = mask_probabilities(logits.float().permute(0, 2, 1)[..., None], labels, self.loss)
        return pixels_of_cells(probabilities[..., 0])


class CellMaskHead(nn.Module):
    """`FCNMaskHead` with channels-last output: (R, C, P, P) -> (R, P, P, 4, K), logits of the 2 x 2 pixels of cells.

    A transposed convolution whose windows do not overlap is a linear layer from a cell to its pixels. Engines run it,
    and the 1x1 convolution after it, faster as linear layers.
    """

    def __init__(self, head: FCNMaskHead) -> None:
        super().__init__()
        hidden, outputs = head.predictor.in_channels, head.predictor.out_channels
        self.convs = head.convs
        self.upsample, self.predictor = nn.Linear(head.upsample.in_channels, 4 * hidden), nn.Linear(hidden, outputs)
        assert head.upsample.bias is not None
        assert head.predictor.bias is not None
        with torch.no_grad():
            self.upsample.weight.copy_(head.upsample.weight.permute(2, 3, 1, 0).flatten(0, 2))
            self.upsample.bias.copy_(head.upsample.bias.repeat(4))
            self.predictor.weight.copy_(head.predictor.weight.flatten(1))
            self.predictor.bias.copy_(head.predictor.bias)

    def forward(self, regions: Tensor) -> Tensor:
        """Compute logits; the pixels of a cell are in row-major order."""
        cells = self.upsample(self.convs(regions).permute(0, 2, 3, 1)).relu()
        return self.predictor(cells.unflatten(3, (4, self.predictor.in_features)))


class ToRegions(nn.Module):
    """Reshape rows (R, P * P * C) to regions (R, C, P, P)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, rows: Tensor) -> Tensor:
        """Return a view, channels last in memory."""
        return rows.unflatten(1, (self.size, self.size, -1)).permute(0, 3, 1, 2)


def map_channels(net: MaskRCNN) -> int:
    """Return the number of channels C of the maps that regions are pooled from."""
    return net.rpn.head.objectness.in_channels


def to_rows(regions: Tensor) -> Tensor:
    """Reshape regions (R, C, P, P) to rows (R, P * P * C), without a copy if channels are last in memory."""
    return regions.permute(0, 2, 3, 1).flatten(1)


def pixels_of_cells(values: Tensor) -> Tensor:
    """Rearrange the 2 x 2 pixels of cells, (R, P * P * 4), to masks (R, 2P, 2P)."""
    side = round((values.shape[1] // 4) ** 0.5)
    return values.view(-1, side, side, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 2 * side, 2 * side)


def make_branches(box: Run, mask: Run, part: MaskPart, block: int | None = None) -> Branches:
    """Make the branches for `MaskRCNN.decode` from a `BoxPart` and a `MaskPart`.

    Args:
        box, mask: the parts, compiled or not.
        part: the module that `mask` was compiled from.
        block: number of regions in each call of `mask`; the last block is padded. None: all regions in one call.
    """

    def box_branch(regions: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = box(to_rows(regions))
        return logits, deltas.unflatten(1, (-1, 4))

    def mask_branch(regions: Tensor, labels: Tensor) -> Tensor:
        if block is None or not len(labels):
            return part.masks(mask(to_rows(regions))[0], labels)
        masks = []
        for rows, classes in zip(to_rows(regions).split(block), labels.split(block), strict=True):
            padded = torch.cat([rows, rows.new_zeros(block - len(rows), rows.shape[1])]) if len(rows) < block else rows
            masks.append(part.masks(mask(padded)[0][: len(rows)], classes))
        return torch.cat(masks)

    return Branches(box_branch, mask_branch)


def _for_rows(head: BoxHead, size: int) -> BoxHead:
    """Return a copy of a box head whose first weights are permuted for inputs in the order P, P, C."""
    permuted = copy.deepcopy(head)
    weight = permuted.get_parameter("fcs.0.weight")
    with torch.no_grad():
        weight.copy_(weight.unflatten(1, (-1, size, size)).permute(0, 2, 3, 1).flatten(1))
    return permuted
