"""Mask targets and mask losses, compared with torchvision's."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import maskrcnn_loss, project_masks_on_boxes

from upscore.annotations import ObjectAnnotations
from upscore.models.mask_rcnn.presets import DETECTRON2, PAPER, TORCHVISION
from upscore.models.mask_rcnn.roi_heads import mask_loss, mask_probabilities, mask_targets


@pytest.fixture
def masks():
    """Return masks of four discs on 60 x 80 pixels, two of which overlap."""
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    discs = ((20, 20, 12), (30, 26, 15), (50, 70, 9), (5, 75, 6))
    return torch.stack([(y - cy) ** 2 + (x - cx) ** 2 < r**2 for cy, cx, r in discs])


BOXES = torch.tensor(
    [
        [5.3, 8.1, 31.0, 33.2],
        [10.0, 14.0, 44.0, 46.0],
        [-3.0, 20.0, 90.0, 66.0],
        [62.2, 40.9, 78.5, 59.9],
        [40.0, 1.0, 45.0, 4.0],
    ]
)
MATCHED = torch.tensor([0, 1, 1, 2, 3])


def test_targets_equal_torchvisions_with_its_preset(masks):
    ours = mask_targets(ObjectAnnotations.from_masks(masks), MATCHED, BOXES, 28, TORCHVISION)
    assert torch.allclose(ours, project_masks_on_boxes(masks.float(), BOXES, MATCHED, 28), atol=1e-5)
    assert ((ours > 0) & (ours < 1)).any()


@pytest.mark.parametrize("preset", [PAPER, DETECTRON2])
def test_other_presets_threshold_at_half_and_do_not_shift(masks, preset):
    ours = mask_targets(ObjectAnnotations.from_masks(masks), MATCHED, BOXES, 28, preset)
    assert set(ours.unique().tolist()) == {0.0, 1.0}
    around = torch.tensor([[6.0, 6.0, 34.0, 34.0]])  # centred at the first disc
    disc, shifted = (
        mask_targets(ObjectAnnotations.from_masks(masks), MATCHED[:1], around, 28, p)[0] for p in (preset, TORCHVISION)
    )
    assert torch.equal(disc, disc.flip(0))
    assert not torch.allclose(shifted, shifted.flip(0))


def test_overlapping_objects_keep_shared_pixels(masks):
    objects = ObjectAnnotations.from_masks(masks)
    assert objects.id_map.shape[0] == 2
    both = torch.tensor([[18.0, 18.0, 24.0, 26.0]]).repeat(2, 1)
    assert mask_targets(objects, torch.tensor([0, 1]), both, 14, PAPER).mean() > 0.95


def test_a_box_outside_the_image_has_an_empty_target(masks):
    outside = torch.tensor([[200.0, 200.0, 220.0, 210.0]])
    assert mask_targets(ObjectAnnotations.from_masks(masks), torch.tensor([0]), outside, 28, PAPER).sum() == 0


def test_the_sigmoid_loss_equals_torchvisions(masks):
    logits = torch.randn(5, 3, 28, 28)
    labels = torch.tensor([0, 2, 1, 1, 0])
    theirs = maskrcnn_loss(logits, [BOXES], [masks.float()], [labels[[0, 1, 3, 4]]], [MATCHED])
    own = labels[[0, 1, 3, 4]][MATCHED]
    targets = mask_targets(ObjectAnnotations.from_masks(masks), MATCHED, BOXES, 28, TORCHVISION)
    assert torch.allclose(mask_loss(logits, own, targets, "sigmoid"), theirs, atol=1e-6)


def test_sigmoid_trains_only_the_true_class_and_softmax_all_classes():
    labels, targets = torch.tensor([1, 0]), (torch.rand(2, 4, 4) > 0.5).float()
    for loss, channels, trained in (("sigmoid", 2, 1), ("softmax", 3, 3)):
        logits = torch.randn(2, channels, 4, 4, requires_grad=True)
        mask_loss(logits, labels, targets, loss).backward()
        assert (logits.grad.abs().sum((2, 3)) > 0).sum(1).tolist() == [trained, trained]


def test_the_last_class_of_the_softmax_is_the_background():
    logits = torch.randn(2, 3, 4, 4)
    labels, targets = torch.tensor([1, 0]), torch.zeros(2, 4, 4)
    expected = F.cross_entropy(logits, torch.full((2, 4, 4), 2))
    assert torch.allclose(mask_loss(logits, labels, targets, "softmax"), expected)
    probabilities = mask_probabilities(logits, labels, "softmax")
    assert torch.allclose(probabilities[0], logits.softmax(1)[0, 1])


def test_a_class_agnostic_mask_is_used_for_every_class():
    logits = torch.randn(3, 1, 4, 4)
    assert torch.equal(mask_probabilities(logits, torch.tensor([4, 0, 2]), "sigmoid"), logits[:, 0].sigmoid())


@pytest.mark.parametrize("mask_loss_type", ["sigmoid", "softmax"])
def test_without_regions_the_loss_is_zero_with_a_gradient_of_zero(mask_loss_type):
    logits = torch.zeros(0, 3, 28, 28, requires_grad=True)
    loss = mask_loss(logits, torch.zeros(0, dtype=torch.long), torch.zeros(0, 28, 28), mask_loss_type)
    loss.backward()
    assert loss.item() == 0
