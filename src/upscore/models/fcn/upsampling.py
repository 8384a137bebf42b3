"""Bilinear and learned upsampling of score maps by transposed convolution (FCN sections 3.3 and 4.3).

N images, C classes, h w cells of the score map, s stride, k kernel size.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.models.coordinate_maps import CoordinateMap
from upscore.models.precision import autocast_disabled


def bilinear_filter(kernel_size: int) -> Tensor:
    """Return the (k,) weights of linear interpolation, a triangle over the kernel (the authors' `surgery.py`)."""
    half_width = (kernel_size + 1) // 2
    positions = torch.arange(kernel_size, dtype=torch.float64)
    return (1 - (positions - (kernel_size - 1) / 2).abs() / half_width).float()


def bilinear_matrix(cells: int, stride: int, kernel_size: int, start: int, size: int, border: int = 0) -> Tensor:
    """Return one axis of a bilinear transposed convolution as a (size, cells) matrix.

    Args:
        cells: number of input cells.
        stride, kernel_size: of the transposed convolution.
        start: output position of the first row.
        size: number of output positions.
        border: number of times that the first and the last cell are replicated before the convolution.
    """
    cell = torch.arange(cells + 2 * border)
    tap = torch.arange(start, start + size)[:, None] - stride * cell[None, :]
    inside = (tap >= 0) & (tap < kernel_size)
    weights = bilinear_filter(kernel_size)[tap.clamp(0, kernel_size - 1)] * inside
    if not border:
        return weights
    source = (cell - border).clamp(0, cells - 1)
    # a matrix product, because index_add is not exported to ONNX correctly
    return weights @ (source[:, None] == torch.arange(cells)).float()


class Upsample(nn.Module):
    """A transposed convolution of scores (N, C, h, w) without bias, of whose output a window is returned.

    A fixed bilinear kernel is separable, and is applied as one matrix product for the rows and one for the columns.
    This is several times faster than a transposed convolution, and only the window is computed.

    Args:
        channels: C.
        stride: s.
        kernel_size: k.
        border: cells replicated at each side before upsampling, so that scores do not decrease towards the border.
        learned: use an `nn.ConvTranspose2d` that is initialised bilinearly, instead of a fixed kernel.
        grouped: learned layers have one kernel per class; False: C x C kernels, initially zero off the diagonal, which
            can mix classes, as in Caffe.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        kernel_size: int,
        *,
        border: int = 0,
        learned: bool = False,
        grouped: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.kernel_size, self.border = stride, kernel_size, border
        if learned:
            groups = channels if grouped else 1
            self.deconvolution = nn.ConvTranspose2d(channels, channels, kernel_size, stride, bias=False, groups=groups)
            self.reset_parameters()
        else:
            self.deconvolution = None

    def reset_parameters(self) -> None:
        """Initialise learned weights bilinearly."""
        if self.deconvolution is None:
            return
        row = bilinear_filter(self.kernel_size)
        weight = self.deconvolution.weight
        with torch.no_grad():
            weight.zero_()
            diagonal = range(weight.shape[0])
            weight[diagonal, diagonal if weight.shape[1] > 1 else 0] = torch.outer(row, row)

    @property
    def coordinates(self) -> CoordinateMap:
        """The map from coordinates of the score map to coordinates of the output."""
        return CoordinateMap(Fraction(self.stride), Fraction(self.kernel_size - 1, 2) + self.stride * self.border)

    def output_size(self, cells: int) -> int:
        """Return the side of the complete output for an input side of `cells`."""
        return (cells + 2 * self.border - 1) * self.stride + self.kernel_size

    def forward(self, scores: Tensor, start: int, size: tuple[int, int]) -> Tensor:
        """Upsample scores (N, C, h, w) and return the window of (height, width) `size` from (start, start) on."""
        if self.deconvolution is None:
            with autocast_disabled(scores.device):
                rows, columns = self.matrices(scores, start, size)
                return rows @ (scores.float() @ columns.T)
        if self.border:
            scores = F.pad(scores, [self.border] * 4, mode="replicate")
        return self.deconvolution(scores)[..., start : start + size[0], start : start + size[1]]

    def matrices(self, scores: Tensor, start: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return matrices (height, h) and (width, w); fixed upsampling is `rows @ scores @ columns.T`."""
        assert self.deconvolution is None
        rows, columns = (
            bilinear_matrix(cells, self.stride, self.kernel_size, start, length, self.border).to(scores.device)
            for cells, length in zip(scores.shape[-2:], size, strict=True)
        )
        return rows, columns


def linear_matrix(cells: int, size: int) -> Tensor:
    """Return one axis of torch's bilinear `interpolate` as a (size, cells) matrix."""
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) * cells / size - 0.5).clamp(0, cells - 1)
    return (1 - (position[:, None] - torch.arange(cells)).abs()).clamp(min=0).float()
