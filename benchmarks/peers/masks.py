"""Masks in RoI form to pixels of a photo."""

from __future__ import annotations

from peers.measure import Row, Sides

HEIGHT, WIDTH, OBJECTS, CELLS = 1500, 2000, 100, 28
SMALLEST, LARGEST = 20, 500
"""Sides of boxes in pixels; small ones are as many as large ones, by order of magnitude."""


def row() -> Row:
    """The same pixels either way; ours are a crop of the photo for each object, RLE and planes for information."""
    return Row(
        name="masks",
        work=f"Masks of {OBJECTS} objects on {HEIGHT}x{WIDTH}",
        peer_name="torchvision paste_masks_in_image",
        target={"crops": 100},
        prepare=prepare,
        memory={"crops": 0.01},
    )


def prepare() -> Sides:
    """Random masks in random boxes inside the photo."""
    import numpy as np
    import torch
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    from upscore.results import InstanceResult

    torch.manual_seed(0)
    sides = SMALLEST * (LARGEST / SMALLEST) ** torch.rand(OBJECTS, 2)
    corners = torch.rand(OBJECTS, 2) * (torch.tensor([WIDTH, HEIGHT]) - sides)
    boxes, masks = torch.cat([corners, corners + sides], 1), torch.rand(OBJECTS, CELLS, CELLS)
    found = InstanceResult(
        boxes=boxes.numpy(),
        scores=np.linspace(1, 0, OBJECTS, dtype=np.float32),
        labels=np.zeros(OBJECTS, np.int64),
        masks=list(masks.numpy()),
        size=(HEIGHT, WIDTH),
        classes=["object"],
        mask_paste="legacy",  # torchvision's rule
    )
    list(found[:1].crops())  # so that what libraries take once is not counted as the masks'
    ours = {
        "crops": lambda: list(found.crops()),
        "RLE": found.rle,
        "planes": found.bitmasks,
    }
    return ours, lambda: paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH)) >= found.mask_threshold
