"""Conversion of masks from RoI form to pixels of an image."""

from __future__ import annotations

from peers.measure import Row, Sides

HEIGHT, WIDTH, OBJECTS, CELLS = 1500, 2000, 100, 28
SMALLEST, LARGEST = 20, 500
"""Range of the sides of boxes in pixels, distributed uniformly on a logarithmic scale."""


def row() -> Row:
    """Return the row: crops for each object compared with full-size masks; RLE and full-size masks for information."""
    return Row(
        name="masks",
        work=f"Masks of {OBJECTS} objects on {HEIGHT}x{WIDTH}",
        peer_name="torchvision paste_masks_in_image",
        target={"crops": 100},
        prepare=prepare,
        memory={"crops": 0.01},
    )


def prepare() -> Sides:
    """Create random masks in random boxes."""
    import numpy as np
    import torch
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    from upscore.results import InstanceResult

    torch.manual_seed(0)
    sides = SMALLEST * (LARGEST / SMALLEST) ** torch.rand(OBJECTS, 2)
    corners = torch.rand(OBJECTS, 2) * (torch.tensor([WIDTH, HEIGHT]) - sides)
    boxes, masks = torch.cat([corners, corners + sides], 1), torch.rand(OBJECTS, CELLS, CELLS)
    instances = InstanceResult(
        boxes=boxes.numpy(),
        scores=np.linspace(1, 0, OBJECTS, dtype=np.float32),
        labels=np.zeros(OBJECTS, np.int64),
        masks=list(masks.numpy()),
        size=(HEIGHT, WIDTH),
        classes=["object"],
        mask_paste="legacy",  # torchvision's rule
    )
    list(instances[:1].crops())  # so that one-time allocations of libraries are not counted
    ours = {
        "crops": lambda: list(instances.crops()),
        "RLE": instances.rle,
        "planes": instances.bitmasks,
    }
    return ours, lambda: paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH)) >= instances.mask_threshold
