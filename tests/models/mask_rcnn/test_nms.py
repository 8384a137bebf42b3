"""NMS without importing torchvision."""

import subprocess
import sys

import torch
from torchvision.ops import nms as torchvision_nms

from upscore.models.mask_rcnn.boxes import nms

ALONE = """
import sys, torch
from upscore.models.mask_rcnn.boxes import nms
boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
assert nms(boxes, torch.tensor([0.5, 0.6, 0.1]), 0.5).tolist() == [1, 2]
assert "torchvision" not in sys.modules
import torchvision
from torchvision.ops import nms, roi_align
assert nms(boxes, torch.tensor([0.5, 0.6, 0.1]), 0.5).tolist() == [1, 2]
image = torch.ones(1, 1, 32, 32, requires_grad=True)
roi_align(image, [boxes], 2).sum().backward()
assert image.grad.sum() > 0
"""


def test_nms_does_not_import_torchvision_which_can_be_imported_afterwards():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_nms_equals_torchvisions():
    start = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 90
    boxes, scores = torch.cat([start, start + 30], dim=1), torch.linspace(0, 1, 200)
    assert torch.equal(nms(boxes, scores, 0.5), torchvision_nms(boxes, scores, 0.5))
