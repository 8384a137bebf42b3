"""An FCN split for inference into its convolutions and the linear upsampling of the coarse scores.

N images, C classes, h w cells of the finest scored map, H W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from upscore.models.fcn.fcn import FCN, FCNHead
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.fcn.upsampling import Upsample, bilinear_matrix, linear_matrix


class CoarseScores(nn.Module):
    """The convolutions of an FCN: preprocessed images (N, 3, H, W) -> summed scores (N, C, h, w) of each head.

    H and W must be multiples of `backbone.multiple`.
    """

    def __init__(self, net: FCN) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor per head, the semantic one first."""
        maps = self.net.backbone(images)
        return tuple(head.fuse_scores(maps) for head in heads(self.net))


def heads(net: FCN) -> list[FCNHead]:
    """Return the semantic head and, if there is one, the geometric head."""
    return [net, net.geometric] if isinstance(net, TwoHeads) else [net]


def upsampling_matrices(
    head: FCNHead, cells: tuple[int, int], input_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor] | None:
    """Return matrices (H, h) and (W, w) that upsample the rows and columns of coarse scores to pixels.

    Args:
        head: the head of the scores.
        cells: (h, w).
        input_size: height and width of the network's input before padding.
        size: (H, W) of the original image, to which the scores are resized.

    Returns:
        None if the last upsampling is learned, and therefore not separable.
    """
    upsample = head.upscore["1"]
    assert isinstance(upsample, Upsample)
    if upsample.deconvolution is not None:
        return None
    start = -head.offsets[1]

    def axis(cells: int, input_size: int, size: int) -> Tensor:
        up = bilinear_matrix(cells, upsample.stride, upsample.kernel_size, start, input_size, upsample.border)
        return up if input_size == size else linear_matrix(input_size, size) @ up

    rows, columns = (axis(*sides) for sides in zip(cells, input_size, size, strict=True))
    return rows, columns
