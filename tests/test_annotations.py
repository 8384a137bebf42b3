"""Object annotations: id maps, layers of overlapping objects, transforms and selection."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from upscore.annotations import ObjectAnnotations

ID_MAP = torch.tensor(
    [
        [0, 3, 3, 0, 0],
        [0, 3, 0, 0, 7],
        [0, 0, 0, 7, 7],
    ]
)


def test_boxes_and_areas_are_measured_on_the_id_map():
    objects = ObjectAnnotations.from_id_map(ID_MAP, labels=torch.tensor([9, 9, 1, 9, 9, 9, 4]))
    assert objects.size == (3, 5)
    assert objects.ids.tolist() == [3, 7]
    assert objects.labels.tolist() == [1, 4]
    assert objects.boxes.tolist() == [[1, 0, 3, 2], [3, 1, 5, 3]]
    assert objects.areas.tolist() == [3, 3]
    assert objects.crowd.tolist() == [False, False]
    assert torch.equal(objects.bitmask(1), ID_MAP == 7)


def test_id_maps_without_objects():
    for objects in (
        ObjectAnnotations.from_id_map(torch.zeros(4, 6)),
        ObjectAnnotations.from_masks(torch.zeros(0, 4, 6, dtype=torch.bool)),
    ):
        assert len(objects) == 0
        assert objects.boxes.shape == (0, 4)
        assert objects.id_map.shape == (1, 4, 6)
        assert objects.transformed(lambda id_map: id_map[..., :2]).size == (4, 2)


@given(st.integers(0, 10_000), st.integers(0, 12))
def test_overlapping_masks_are_kept_complete(seed, count):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, 7, 9, generator=generator) < torch.rand(count, 1, 1, generator=generator)
    labels = torch.arange(count)
    objects = ObjectAnnotations.from_masks(masks, labels)
    kept = masks.flatten(1).any(1)
    assert torch.equal(objects.labels, labels[kept])
    for position, mask in enumerate(masks[kept]):
        assert torch.equal(objects.bitmask(position), mask)
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert objects.boxes[position].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert objects.areas[position] == mask.sum()


def test_objects_without_overlap_share_a_layer():
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, :, :3] = masks[1, :, 3:] = masks[2, 1:3] = True
    objects = ObjectAnnotations.from_masks(masks)
    assert objects.layers.tolist() == [0, 0, 1]


def test_transformed_objects_are_measured_again_and_empty_ones_dropped():
    crowd = torch.tensor([0, 0, 1, 0, 0, 0, 0], dtype=torch.bool)
    objects = ObjectAnnotations.from_id_map(ID_MAP, labels=torch.arange(7), crowd=crowd)
    cropped = objects.transformed(lambda id_map: id_map[..., :2])
    assert cropped.ids.tolist() == [3]
    assert (cropped.boxes.tolist(), cropped.areas.tolist(), cropped.labels.tolist()) == ([[1, 0, 2, 2]], [2], [2])
    assert cropped.crowd.tolist() == [True]
    flipped = objects.transformed(lambda id_map: id_map.flip(-1))
    assert flipped.boxes.tolist() == [[2, 0, 4, 2], [0, 1, 2, 3]]


def test_objects_are_selected_by_position_or_mask():
    objects = ObjectAnnotations.from_id_map(ID_MAP)
    assert objects[torch.tensor([False, True])].ids.tolist() == [7]
    assert objects[torch.tensor([1, 0])].ids.tolist() == [7, 3]
    assert objects[torch.tensor([1])].transformed(lambda id_map: id_map.flip(-1)).ids.tolist() == [7]
