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

from upscore.models.mask_rcnn.mask_rcnn import Branches, MaskRCNN, Outputs
from upscore.models.mask_rcnn.roi_align import from_table, to_table
from upscore.models.mask_rcnn.roi_heads import BoxHead, FCNMaskHead, MaskLoss, mask_probabilities
from upscore.models.mask_rcnn.rpn import RPNOutputs

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""A part, compiled or not."""


class DensePart(nn.Module):
    """Preprocessed images (N, 3, H, W), H and W multiples of `backbone.multiple` -> the maps that regions are pooled
    from (N, h, w, C), then each level's objectness (N, h, w, A), then each one's deltas (N, h, w, 4A).

    Args:
        net: the whole network.
        dtype: of the maps.
    """

    def __init__(self, net: MaskRCNN, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `to_outputs`."""
        maps, (objectness, deltas) = self.net.dense(images)
        pooled = (features.to(self.dtype) for features in maps[: len(self.net.box_pooler.strides)])
        return tuple(features.permute(0, 2, 3, 1) for features in (*pooled, *objectness, *deltas))


def to_outputs(tensors: Sequence[Tensor], maps: int) -> Outputs:
    """What `DensePart` returns, as `MaskRCNN.forward` does, but for maps that no region is pooled from.

    Args:
        tensors: of `DensePart`.
        maps: how many of them are maps; they become one table, without a copy where they are one already.
    """
    planes = [tensor.permute(0, 3, 1, 2) for tensor in tensors]
    pooled, levels = planes[:maps], planes[maps:]
    table = to_table(pooled)
    sizes = [(features.shape[-2], features.shape[-1]) for features in pooled]
    proposals = RPNOutputs(levels[: len(levels) // 2], levels[len(levels) // 2 :])
    return Outputs(from_table(table, len(planes[0]), sizes), proposals)


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
    """What was pooled for masks, (R, P * P * C) of any float type -> logits that `masks` makes masks of.

    Args:
        net: the whole network.
        dtype: of the logits.
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
        """One tensor: (R, P, P, 4, K) of `CellMaskHead`, or (R, K, m, m)."""
        return (self.head(self.shared_head(self.to_regions(rows.float()))).to(self.dtype),)

    def masks(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What `forward` returns, and predicted classes (R,) -> the class's probabilities (R, m, m) float32."""
        if not isinstance(self.head, CellMaskHead):
            return mask_probabilities(logits.float(), labels, self.loss)
        logits = logits.flatten(1, 3)
        if self.loss == "sigmoid" and logits.shape[-1] > 1:  # the class first, for there may be many
            logits = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
            labels = torch.zeros_like(labels)
        own = mask_probabilities(logits.float().permute(0, 2, 1)[..., None], labels, self.loss)
        return pixels_of_cells(own[..., 0])


class CellMaskHead(nn.Module):
    """`FCNMaskHead` in memory order: (R, C, P, P) -> (R, P, P, 4, K), the logits of a cell's 2 x 2 pixels.

    An upsampling by windows that do not overlap is a fully connected layer from a cell to its pixels, and engines run
    it, and the convolution of 1 x 1 that follows, faster as such.
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
        """Pixels of a cell in the order of rows."""
        cells = self.upsample(self.convs(regions).permute(0, 2, 3, 1)).relu()
        return self.predictor(cells.unflatten(3, (4, self.predictor.in_features)))


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


def pixels_of_cells(values: Tensor) -> Tensor:
    """(R, P * P * 4) of cells and their 2 x 2 pixels, row by row -> (R, 2P, 2P)."""
    side = round((values.shape[1] // 4) ** 0.5)
    return values.view(-1, side, side, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 2 * side, 2 * side)


def make_branches(box: Run, mask: Run, part: MaskPart, block: int | None = None) -> Branches:
    """What `MaskRCNN.decode` takes, of `BoxPart` and `MaskPart`.

    Args:
        box, mask: the parts, compiled or not.
        part: what `mask` was made of.
        block: so many regions at once go through the mask part, always: the last ones are filled up; None: all.
    """

    def box_branch(regions: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = box(to_rows(regions))
        return logits, deltas.unflatten(1, (-1, 4))

    def mask_branch(regions: Tensor, labels: Tensor) -> Tensor:
        if block is None or not len(labels):
            return part.masks(mask(to_rows(regions))[0], labels)
        masks = []
        for rows, classes in zip(to_rows(regions).split(block), labels.split(block), strict=True):
            filled = torch.cat([rows, rows.new_zeros(block - len(rows), rows.shape[1])]) if len(rows) < block else rows
            masks.append(part.masks(mask(filled)[0][: len(rows)], classes))
        return torch.cat(masks)

    return Branches(box_branch, mask_branch)


def _for_rows(head: BoxHead, size: int) -> BoxHead:
    """The same fully connected layers for values in the order P, P, C: the first one's weights move instead."""
    own = copy.deepcopy(head)
    weight = own.get_parameter("fcs.0.weight")
    with torch.no_grad():
        weight.copy_(weight.unflatten(1, (-1, size, size)).permute(0, 2, 3, 1).flatten(1))
    return own
