"""An FCN in two parts: convolutions up to the summed coarse scores, and the linear way from there to pixels.

N images, C classes, h w cells of the finest stride that is scored, H W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from upscore.models.fcn.fcn import FCN, FCNHead
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.fcn.upsampling import Upsample, bilinear_matrix, linear_matrix


class CoarseScores(nn.Module):
    """The convolutions: preprocessed images (N, 3, H, W), H and W multiples of `backbone.multiple` -> each head's
    summed scores (N, C, h, w)."""

    def __init__(self, net: FCN) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """One tensor for each head, the semantic one first."""
        maps = self.net.backbone(images)
        return tuple(head.fuse_scores(maps) for head in heads(self.net))


def heads(net: FCN) -> list[FCNHead]:
    """The semantic head, and the geometric one where there is one."""
    return [net, net.geometric] if isinstance(net, TwoHeads) else [net]


def upsampling_matrices(
    head: FCNHead, cells: tuple[int, int], seen: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor] | None:
    """What takes coarse scores to pixels where that is linear and the same for all classes: (H, h) and (W, w).

    Args:
        cells: (h, w).
        seen: height and width of the image as the network saw it.
        size: (H, W) of the photo, to which the scores are then resized.

    Returns:
        None for a head whose last upsampling is learned.
    """
    upsample = head.upscore["1"]
    assert isinstance(upsample, Upsample)
    if upsample.deconvolution is not None:
        return None
    start = -head.offsets[1]

    def axis(cells: int, seen: int, size: int) -> Tensor:
        up = bilinear_matrix(cells, upsample.stride, upsample.kernel_size, start, seen, upsample.border)
        return up if seen == size else linear_matrix(seen, size) @ up

    rows, columns = (axis(*sides) for sides in zip(cells, seen, size, strict=True))
    return rows, columns
