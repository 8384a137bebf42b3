from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from upscore.data.formats.shapes import Bitmap, ImageShapes, Polygon, Shape, pixel_polygons

SQUARE = np.array([[1, 1], [7, 1], [7, 6], [1, 6]], float)
HOLE = np.array([[3, 2], [5, 2], [5, 4], [3, 4]], float)


def drawn(shape: Shape, size: tuple[int, int] = (8, 9)) -> np.ndarray:
    return ImageShapes(size=size, shapes=[shape]).class_map({"a": 1}, background=0) == 1


def test_a_hole_is_cut_out_of_its_own_part_only() -> None:
    inside = Polygon(HOLE)
    ring = drawn(Shape(label="a", polygons=[Polygon(SQUARE, [HOLE])]))
    assert ring.sum() == 30 - 4
    assert not ring[2:4, 3:5].any()
    assert drawn(Shape(label="a", polygons=[Polygon(SQUARE, [HOLE]), inside])).sum() == 30


@settings(deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.integers(-3, 5), st.integers(-3, 5))
def test_polygons_along_pixel_edges_give_the_same_pixels(mask: np.ndarray, left: int, top: int) -> None:
    polygons = pixel_polygons(mask, left=left, top=top)
    bitmap = Shape(label="a", bitmap=Bitmap(mask, left, top))
    size = (20, 20)
    inside = drawn(bitmap, size)
    if left >= 0 and top >= 0:
        assert np.array_equal(drawn(Shape(label="a", polygons=polygons), size), inside)
        assert inside.sum() == mask.sum()
    assert inside[max(top, 0) :, max(left, 0) :].sum() == mask[max(-top, 0) :, max(-left, 0) :].sum()


@pytest.mark.parametrize("ring", [[], [[1, 1], [5, 5]], [[20, 20], [30, 20], [30, 30]], [[-9, -9], [-1, -9], [-1, -1]]])
def test_shapes_without_pixels_are_no_objects(ring: list[list[float]]) -> None:
    shape = Shape(label="a", polygons=[Polygon(np.array(ring, float).reshape(-1, 2))])
    image = ImageShapes(size=(8, 9), shapes=[shape])
    assert not drawn(shape).any()
    assert len(image.objects({"a": 0})) == 0


def test_shapes_with_the_same_label_and_instance_are_one_object() -> None:
    def square(left: int, label: str = "a", instance: int | None = None, crowd: bool = False) -> Shape:
        return Shape(label=label, bitmap=Bitmap(np.ones((2, 2), bool), left, 0), instance=instance, crowd=crowd)

    shapes = [square(0, instance=7), square(4, instance=7), square(1, "b", instance=7), square(6, crowd=True)]
    image = ImageShapes(size=(4, 9), shapes=[*shapes, square(2, "ignored")])
    objects = image.objects({"a": 1, "b": 0})
    assert objects.labels.tolist() == [1, 0, 1]
    assert objects.crowd.tolist() == [False, False, True]
    assert objects.areas.tolist() == [8, 4, 4]
    assert objects.id_map.shape == (2, 4, 9)  # "b" overlaps the first object
    assert torch.equal(objects.boxes[0], torch.tensor([0.0, 0, 6, 2]))
    drawn = image.class_map({"a": 1, "b": 2}, background=255)
    assert drawn[0].tolist() == [1, 2, 2, 255, 1, 1, 1, 1, 255]
