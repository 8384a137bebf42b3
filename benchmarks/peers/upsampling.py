"""Upsampling of coarse FCN scores to a class map."""

from __future__ import annotations

from functools import partial

from peers.measure import Row, Sides

CLASSES, STRIDE = 21, 8


def row(height: int, width: int) -> Row:
    """Return the row: bilinear upsampling from stride 8, equal to `interpolate` up to rounding."""
    return Row(
        name=f"upsampling-{height}x{width}",
        work=f"Upsampling + argmax, {CLASSES} classes, {height}x{width}",
        peer_name="torch interpolate + argmax",
        target={"float32": 5},
        prepare=partial(prepare, height, width),
        memory={"float32": 0.5},
    )


def prepare(height: int, width: int) -> Sides:
    """Create random scores."""
    import torch
    from torch.nn import functional as F

    from upscore.inference.fcn_runner import by_matrices, class_map
    from upscore.models.fcn.upsampling import linear_matrix

    torch.manual_seed(0)
    cells = height // STRIDE, width // STRIDE
    scores = torch.randn(CLASSES, *cells)

    @torch.inference_mode()
    def ours() -> object:
        rows, columns = (linear_matrix(*sides) for sides in zip(cells, (height, width), strict=True))
        return class_map(by_matrices(scores, rows, columns), (height, width))[0]

    @torch.inference_mode()
    def peer() -> object:
        pixels = F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)
        return pixels.argmax(1)[0]

    return {"float32": ours}, peer
