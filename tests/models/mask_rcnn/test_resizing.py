"""Resized images, compared with torchvision's."""

import pytest
import torch
from torchvision.transforms.v2 import functional as pixels

from upscore.models.mask_rcnn.resizing import Resizing
from upscore.models.preprocessing import IMAGENET


@pytest.mark.parametrize("size", [(40, 64), (37, 90), (200, 130), (64, 64)])
def test_resized_pixels_are_bit_identical_to_torchvisions(size):
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(1)).byte()
    resizing = Resizing(min_side=64, max_side=100, rule="pixels")
    size = resizing.size(*size)
    expected = IMAGENET(pixels.resize(image, list(size), antialias=True)[None])[0]
    assert torch.equal(resizing(image, IMAGENET), expected)
