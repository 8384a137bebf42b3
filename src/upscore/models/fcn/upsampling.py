"""Upsampling of score maps by transposed convolution, bilinear at birth (FCN sections 3.3 and 4.3).

N images, C classes, h w cells of the score map, s stride, k kernel size.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.models.geometry import CoordinateMap
from upscore.models.precision import autocast_disabled


def bilinear_filter(kernel_size: int) -> Tensor:
    """The (k,) weights of linear interpolation: a triangle over the kernel (the authors' `surgery.py`)."""
    half_width = (kernel_size + 1) // 2
    positions = torch.arange(kernel_size, dtype=torch.float64)
    return (1 - (positions - (kernel_size - 1) / 2).abs() / half_width).float()


def bilinear_matrix(cells: int, stride: int, kernel_size: int, start: int, size: int, border: int = 0) -> Tensor:
    """One axis of a bilinear transposed convolution as a (size, cells) matrix.

    Row y is output position `start + y`, whose value is the weighted sum of the cells under the triangle.
    With `border`, that many copies of the first and the last cell stand before and after them.
    """
    cell = torch.arange(cells + 2 * border)
    tap = torch.arange(start, start + size)[:, None] - stride * cell[None, :]
    inside = (tap >= 0) & (tap < kernel_size)
    weights = bilinear_filter(kernel_size)[tap.clamp(0, kernel_size - 1)] * inside
    if not border:
        return weights
    source = (cell - border).clamp(0, cells - 1)
    # a product, for sums by index do not survive the way to ONNX
    return weights @ (source[:, None] == torch.arange(cells)).float()


class Upsample(nn.Module):
    """A transposed convolution of (N, C, h, w) scores, stride s, kernel k, no bias, of which a window is kept.

    fixed: the bilinear kernel is separable, so the layer is one matrix product for the rows and one for the columns:
        the same numbers several times faster than a transposed convolution, computed for the window alone.
    learned: an `nn.ConvTranspose2d` whose weights start out bilinear. Dense (C x C kernels, zero off the diagonal, as
        in Caffe) lets classes mix; grouped (one kernel a class) does not.
    border: cells repeated at each side before upsampling, so that values do not fade towards the image's border.
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
        """Make learned weights bilinear again."""
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
        """Where a coordinate of the score map comes to lie in the output."""
        return CoordinateMap(Fraction(self.stride), Fraction(self.kernel_size - 1, 2) + self.stride * self.border)

    def output_size(self, cells: int) -> int:
        """The side of the whole output for a side of `cells`."""
        return (cells + 2 * self.border - 1) * self.stride + self.kernel_size

    def forward(self, scores: Tensor, start: int, size: tuple[int, int]) -> Tensor:
        """Rows and columns `start` to `start + size` of the upsampled (N, C, h, w) scores."""
        if self.deconvolution is None:
            with autocast_disabled(scores.device):
                rows, columns = self.matrices(scores, start, size)
                return rows @ (scores.float() @ columns.T)
        if self.border:
            scores = F.pad(scores, [self.border] * 4, mode="replicate")
        return self.deconvolution(scores)[..., start : start + size[0], start : start + size[1]]

    def matrices(self, scores: Tensor, start: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(rows, h) and (columns, w): fixed upsampling is the one times the scores times the other's transpose."""
        assert self.deconvolution is None
        rows, columns = (
            bilinear_matrix(cells, self.stride, self.kernel_size, start, length, self.border).to(scores.device)
            for cells, length in zip(scores.shape[-2:], size, strict=True)
        )
        return rows, columns


def linear_matrix(cells: int, size: int) -> Tensor:
    """One axis of resizing as torch's bilinear `interpolate` does, as a (size, cells) matrix."""
    position = ((torch.arange(size, dtype=torch.float64) + 0.5) * cells / size - 0.5).clamp(0, cells - 1)
    return (1 - (position[:, None] - torch.arange(cells)).abs()).clamp(min=0).float()
