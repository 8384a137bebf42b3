"""Bilinear and learned upsampling, compared with torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from upscore.models.fcn.upsampling import Upsample, bilinear_filter, bilinear_matrix


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_filters_are_triangles() -> None:
    assert bilinear_filter(4).tolist() == [0.25, 0.75, 0.75, 0.25]
    assert bilinear_filter(3).tolist() == [0.5, 1.0, 0.5]
    assert bilinear_filter(1).tolist() == [1.0]
    for kernel_size in (15, 16, 31, 32, 63, 64):
        filter_ = bilinear_filter(kernel_size)
        assert torch.equal(filter_, filter_.flip(0))
        stride = (kernel_size + 1) // 2
        assert filter_.sum() == stride  # the weights of each output position sum to one


@settings(deadline=None, max_examples=150)
@given(
    cells=st.integers(1, 7),
    stride=st.integers(1, 9),
    kernel_size=st.integers(1, 20),
    border=st.integers(0, 2),
    data=st.data(),
)
def test_the_matrix_equals_a_transposed_convolution(
    cells: int, stride: int, kernel_size: int, border: int, data: st.DataObject
) -> None:
    whole = (cells + 2 * border - 1) * stride + kernel_size
    start = data.draw(st.integers(0, whole - 1))
    size = data.draw(st.integers(1, whole - start))
    scores = noise(1, 1, 1, cells)
    padded = F.pad(scores, (border, border, 0, 0), mode="replicate")
    row = bilinear_filter(kernel_size).view(1, 1, 1, -1)
    expected = F.conv_transpose2d(padded, row, stride=(1, stride))[0, 0, 0]
    assert len(expected) == whole
    matrix = bilinear_matrix(cells, stride, kernel_size, start, size, border)
    assert matrix.shape == (size, cells)
    assert torch.allclose(matrix @ scores[0, 0, 0], expected[start : start + size], atol=1e-5)


def test_the_matrix_is_zero_outside_the_output() -> None:
    matrix = bilinear_matrix(cells=3, stride=4, kernel_size=8, start=-5, size=30)
    assert matrix[:5].eq(0).all()
    assert matrix[5:21].sum(1).ne(0).all()
    assert matrix[21:].eq(0).all()


@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize(("stride", "kernel_size"), [(2, 4), (2, 3), (8, 16), (8, 15), (32, 64), (32, 63)])
@pytest.mark.parametrize("channels", [1, 3])
def test_learned_upsampling_initially_equals_fixed(channels: int, stride: int, kernel_size: int, border: int) -> None:
    scores = noise(2, channels, 5, 3)
    fixed = Upsample(channels, stride, kernel_size, border=border)
    dense = Upsample(channels, stride, kernel_size, border=border, learned=True, grouped=False)
    grouped = Upsample(channels, stride, kernel_size, border=border, learned=True, grouped=True)
    start, size = 3, (fixed.output_size(5) - 3, fixed.output_size(3) - 4)
    expected = fixed(scores, start, size)
    assert expected.shape == (2, channels, *size)
    assert expected.abs().max() > 0.5
    for learned in (dense, grouped):
        assert torch.allclose(learned(scores, start, size), expected, atol=1e-5)
    assert not list(fixed.parameters())
    assert [p.shape for p in dense.parameters()] == [(channels, channels, kernel_size, kernel_size)]
    assert [p.shape for p in grouped.parameters()] == [(channels, 1, kernel_size, kernel_size)]


def test_dense_kernels_can_mix_classes_and_grouped_ones_cannot() -> None:
    for grouped in (False, True):
        layer = Upsample(3, 2, 4, learned=True, grouped=grouped)
        scores = noise(1, 3, 4, 4).requires_grad_()
        layer(scores, 0, (8, 8))[:, 0].square().sum().backward()
        assert layer.deconvolution is not None
        gradient = layer.deconvolution.weight.grad
        assert gradient is not None
        if grouped:
            assert gradient[1:].eq(0).all()
        else:
            assert gradient[1:, 0].ne(0).all()  # from scores of the other classes to this one


def test_reset_parameters_restores_bilinear_weights() -> None:
    layer = Upsample(3, 2, 4, learned=True, grouped=False)
    assert layer.deconvolution is not None
    initial = layer.deconvolution.weight.detach().clone()
    torch.nn.init.normal_(layer.deconvolution.weight)
    layer.reset_parameters()
    assert torch.equal(layer.deconvolution.weight, initial)
    assert layer.deconvolution.weight.requires_grad
    Upsample(3, 2, 4).reset_parameters()


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_upsampling_interpolates_the_interior_and_decreases_at_the_border(stride: int) -> None:
    scores = noise(1, 2, 4, 5)
    layer = Upsample(2, stride, 2 * stride)
    found = layer(scores, stride // 2, (4 * stride, 5 * stride))
    expected = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    inner = slice(stride // 2, -(stride // 2))
    assert torch.allclose(found[..., inner, inner], expected[..., inner, inner], atol=1e-5)
    assert (found - expected).abs().max() > 0.1


def test_factors_at_the_border_at_stride_32() -> None:
    found = Upsample(1, 32, 64)(torch.ones(1, 1, 4, 4), 16, (128, 128))[0, 0]
    assert found[0, 0].item() == pytest.approx(0.27, abs=0.005)
    assert found[0, 64].item() == pytest.approx(0.52, abs=0.005)
    assert found[64, 127].item() == pytest.approx(0.52, abs=0.005)
    assert found[16:-16, 16:-16].allclose(torch.tensor(1.0))
    assert found[0, 15] < 1


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_upsampling_interpolates_everywhere_with_a_replicated_border(stride: int) -> None:
    scores = noise(2, 3, 4, 1)
    layer = Upsample(3, stride, 2 * stride, border=1)
    found = layer(scores, stride + stride // 2, (4 * stride, stride))
    expected = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [15, 16])
@pytest.mark.parametrize("border", [0, 1])
def test_coordinates_give_the_position_of_cells_in_the_output(kernel_size: int, border: int) -> None:
    scores = torch.zeros(1, 1, 7, 7)
    scores[..., 3, 3] = 1
    layer = Upsample(1, 8, kernel_size, border=border)
    profile = layer(scores, 0, (layer.output_size(7),) * 2)[0, 0].sum(0)
    centre = (profile * torch.arange(len(profile))).sum() / profile.sum()
    assert centre.item() == pytest.approx(float(layer.coordinates.scale * 3 + layer.coordinates.shift))


def test_fixed_upsampling_stays_exact_under_autocast() -> None:
    scores = noise(1, 2, 3, 3)
    layer = Upsample(2, 8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(scores, 4, (24, 24))
    assert found.dtype == torch.float32
    assert torch.equal(found, layer(scores, 4, (24, 24)))
